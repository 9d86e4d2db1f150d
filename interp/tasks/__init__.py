"""Tasks: behaviours to explain, as pairs of prompts with answers and a metric.

A `Task` is made from prompts, token ids, chats, files or tables, or by a family (`families()` lists them).
Sub-modules: `metrics`, `chat`, `check` (how well a model does a task), `corrupt` (corrupt prompts for one's
own), `vocabulary` and `wordlists` (what a tokenizer can say), `handmade` (families of the hand-built models),
`world` (the language of tiny-world).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.tasks import chat as chat
    from interp.tasks import check as check
    from interp.tasks import corrupt as corrupt
    from interp.tasks import handmade as handmade
    from interp.tasks import metrics as metrics
    from interp.tasks import vocabulary as vocabulary
    from interp.tasks import wordlists as wordlists
    from interp.tasks import world as world
    from interp.tasks._agreement import agreement as agreement
    from interp.tasks._catalogue import Family as Family
    from interp.tasks._catalogue import families as families
    from interp.tasks._coloured_objects import coloured_objects as coloured_objects
    from interp.tasks._docstring import docstring as docstring
    from interp.tasks._facts import facts as facts
    from interp.tasks._greater_than import greater_than as greater_than
    from interp.tasks._induction import induction as induction
    from interp.tasks._ioi import ioi as ioi
    from interp.tasks._mib import mib as mib
    from interp.tasks._task import Task as Task
    from interp.tasks._variables import Variable as Variable
    from interp.tasks.check import TaskReport as TaskReport
    from interp.tasks.check import UnsolvedTask as UnsolvedTask
    from interp.tasks.handmade import and_gate as and_gate
    from interp.tasks.handmade import linear as linear
    from interp.tasks.handmade import or_gate as or_gate
    from interp.tasks.handmade import reverse as reverse
    from interp.tasks.handmade import xproportion as xproportion
    from interp.tasks.metrics import KL as KL
    from interp.tasks.metrics import METRICS as METRICS
    from interp.tasks.metrics import Custom as Custom
    from interp.tasks.metrics import InContextLoss as InContextLoss
    from interp.tasks.metrics import LogitDiff as LogitDiff
    from interp.tasks.metrics import LogProb as LogProb
    from interp.tasks.metrics import Loss as Loss
    from interp.tasks.metrics import Metric as Metric
    from interp.tasks.metrics import Prob as Prob
    from interp.tasks.metrics import ProbDiff as ProbDiff
    from interp.tasks.metrics import Rank as Rank
    from interp.tasks.metrics import Reading as Reading
    from interp.tasks.metrics import SeqLogProb as SeqLogProb
    from interp.tasks.world._families import conflict as conflict
    from interp.tasks.world._families import languages as languages
    from interp.tasks.world._families import pronouns as pronouns
    from interp.tasks.world._families import register as register
    from interp.tasks.world._families import requests as requests
    from interp.tasks.world._families import sentiment as sentiment

__all__ = [
    "KL",
    "METRICS",
    "Custom",
    "Family",
    "InContextLoss",
    "LogProb",
    "LogitDiff",
    "Loss",
    "Metric",
    "Prob",
    "ProbDiff",
    "Rank",
    "Reading",
    "SeqLogProb",
    "Task",
    "TaskReport",
    "UnsolvedTask",
    "Variable",
    "agreement",
    "and_gate",
    "coloured_objects",
    "conflict",
    "docstring",
    "facts",
    "families",
    "greater_than",
    "induction",
    "ioi",
    "languages",
    "linear",
    "mib",
    "or_gate",
    "pronouns",
    "register",
    "requests",
    "reverse",
    "sentiment",
    "xproportion",
]

_EXPORTS = {
    "interp.tasks._agreement": ("agreement",),
    "interp.tasks._catalogue": ("Family", "families"),
    "interp.tasks._coloured_objects": ("coloured_objects",),
    "interp.tasks._docstring": ("docstring",),
    "interp.tasks._facts": ("facts",),
    "interp.tasks._greater_than": ("greater_than",),
    "interp.tasks._induction": ("induction",),
    "interp.tasks._ioi": ("ioi",),
    "interp.tasks._mib": ("mib",),
    "interp.tasks._task": ("Task",),
    "interp.tasks._variables": ("Variable",),
    "interp.tasks.check": ("TaskReport", "UnsolvedTask"),
    "interp.tasks.handmade": ("and_gate", "linear", "or_gate", "reverse", "xproportion"),
    "interp.tasks.metrics": (
        "KL",
        "METRICS",
        "Custom",
        "LogitDiff",
        "LogProb",
        "InContextLoss",
        "Loss",
        "Metric",
        "Prob",
        "ProbDiff",
        "Rank",
        "Reading",
        "SeqLogProb",
    ),
    "interp.tasks.world._families": (
        "conflict",
        "languages",
        "pronouns",
        "register",
        "requests",
        "sentiment",
    ),
}
_MODULES = ("chat", "check", "corrupt", "handmade", "metrics", "vocabulary", "wordlists", "world")
__getattr__, __dir__ = lazy(__name__, _EXPORTS, _MODULES)
