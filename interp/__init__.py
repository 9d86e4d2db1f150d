"""interp: a mechanistic-interpretability workbench on TransformerLens.

`import interp` is cheap: torch and transformer_lens load at the first use of a name that needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from interp import ablation as ablation
    from interp import attribution as attribution
    from interp import circuits as circuits
    from interp import heads as heads
    from interp import labs as labs
    from interp import lens as lens
    from interp import live as live
    from interp import methods as methods
    from interp import models as models
    from interp import patching as patching
    from interp import paths as paths
    from interp import places as places
    from interp import plans as plans
    from interp import plot as plot
    from interp import positions as positions
    from interp import probes as probes
    from interp import report as report
    from interp import sae as sae
    from interp import stats as stats
    from interp import steering as steering
    from interp import subspaces as subspaces
    from interp import tasks as tasks
    from interp._activations import activations as activations
    from interp._optimal import optimal_ablation as optimal_ablation
    from interp.attribution import attribute as attribute
    from interp.live import explore as explore
    from interp.models import load as load
    from interp.patching import patch as patch
    from interp.paths import path_patch as path_patch
    from interp.plans import plan as plan
    from interp.report._run import open as open
    from interp.tasks import Task as Task

_SUBMODULES = (
    "ablation",
    "attribution",
    "circuits",
    "heads",
    "labs",
    "lens",
    "live",
    "methods",
    "models",
    "patching",
    "paths",
    "places",
    "plans",
    "plot",
    "positions",
    "probes",
    "report",
    "sae",
    "stats",
    "steering",
    "subspaces",
    "tasks",
)

__all__ = [
    "Task",
    "__version__",
    "ablation",
    "activations",
    "attribute",
    "attribution",
    "circuits",
    "explore",
    "heads",
    "labs",
    "lens",
    "live",
    "load",
    "methods",
    "models",
    "open",
    "optimal_ablation",
    "patch",
    "patching",
    "path_patch",
    "paths",
    "places",
    "plan",
    "plans",
    "plot",
    "positions",
    "probes",
    "report",
    "sae",
    "stats",
    "steering",
    "subspaces",
    "tasks",
]


__getattr__, _ = lazy(
    __name__,
    {
        "interp._activations": ("activations",),
        "interp._optimal": ("optimal_ablation",),
        "interp.attribution": ("attribute",),
        "interp.live": ("explore",),
        "interp.models": ("load",),
        "interp.patching": ("patch",),
        "interp.paths": ("path_patch",),
        "interp.plans": ("plan",),
        "interp.report._run": ("open",),
        "interp.tasks": ("Task",),
    },
    _SUBMODULES,
)


def __dir__() -> list[str]:
    return sorted(__all__)
