"""Teaching labs: notebooks with exercises that check themselves, offline, on models whose answer is known.

`interp labs copy DIR` makes the copies for students; `check` holds the check of every exercise; `grade` runs
a folder of copies. A lab is two files: its text with stubs and solutions (`sources/`), and its checks with
the usual mistakes (`checks/`). docs/teaching.md is the teacher's page. Importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.labs import check as check
    from interp.labs._bundle import bundle as bundle
    from interp.labs._copies import copy as copy
    from interp.labs._copies import research as research
    from interp.labs._doctor import doctor as doctor
    from interp.labs._exercise import Case as Case
    from interp.labs._exercise import Exercise as Exercise
    from interp.labs._exercise import NotYet as NotYet
    from interp.labs._exercise import Wrong as Wrong
    from interp.labs._grade import grade as grade
    from interp.labs._source import Lab as Lab
    from interp.labs._source import labs as labs

__all__ = [
    "Case",
    "Exercise",
    "Lab",
    "NotYet",
    "Wrong",
    "bundle",
    "check",
    "copy",
    "doctor",
    "grade",
    "labs",
    "research",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.labs._bundle": ("bundle",),
        "interp.labs._copies": ("copy", "research"),
        "interp.labs._doctor": ("doctor",),
        "interp.labs._exercise": ("Case", "Exercise", "NotYet", "Wrong"),
        "interp.labs._grade": ("grade",),
        "interp.labs._source": ("Lab", "labs"),
    },
    ("check",),
)
