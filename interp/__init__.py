"""interp: a mechanistic-interpretability workbench on TransformerLens.

`import interp` is cheap: torch and transformer_lens load at the first use of a name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from interp import attribution as attribution
    from interp import circuits as circuits
    from interp import models as models
    from interp import names as names
    from interp import patching as patching
    from interp import plot as plot
    from interp import probes as probes
    from interp import report as report
    from interp import stats as stats
    from interp import steering as steering
    from interp import tasks as tasks
    from interp.attribution import attribute as attribute
    from interp.models import load as load
    from interp.patching import patch as patch
    from interp.patching import plan as plan
    from interp.tasks import Task as Task

_SUBMODULES = (
    "attribution", "circuits", "models", "names", "patching", "plot", "probes", "report", "stats", "steering",
    "tasks",
)  # fmt: skip
_FUNCTIONS = {
    "attribute": "interp.attribution",
    "load": "interp.models",
    "patch": "interp.patching",
    "plan": "interp.patching",
    "Task": "interp.tasks",
}

__all__ = [
    "Task",
    "__version__",
    "attribute",
    "attribution",
    "circuits",
    "load",
    "models",
    "names",
    "patch",
    "patching",
    "plan",
    "plot",
    "probes",
    "report",
    "stats",
    "steering",
    "tasks",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"interp.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
