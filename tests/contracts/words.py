"""The words of the public surface: every verb, and what each argument is called and defaults to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import interp

PACKAGES = (
    "attribution",
    "circuits",
    "heads",
    "lens",
    "live",
    "patching",
    "paths",
    "plot",
    "probes",
    "report",
    "sae",
    "stats",
    "steering",
    "subspaces",
    "tasks",
)

# One default everywhere; None stands for "required, or the verb's own".
DEFAULTS: dict[str, Any] = {
    "ablation": "resample",
    "direction": None,
    "metric": None,
    "level": 0.95,
    "seed": 0,
    "batch_size": None,
    "memory": 2 * 2**30,
    "store": None,
    "workers": None,
    "executor": None,
    "engine": "auto",
    "progress": True,
    "site": "resid_pre",
    "pos": "last",
    "layer": None,
    "head": None,
    "mask": None,
}
# `site` is the first question of a sweep and has no default there.
REQUIRED_IN_SWEEPS = ("patch", "plan", "attribute", "screen")

# Methods of papers read where their papers do, and a lens the whole text.
POSITIONS_OF_PAPERS = (
    "class_neurons", "expert_units", "linear_act", "lineas", "logit", "moral_direction", "native_skills",
    "report",
)  # fmt: skip

# Their order, wherever two of them occur.
ORDER = (
    "ablation", "direction", "metric", "level", "seed", "batch_size", "memory", "store", "workers",
    "executor", "engine", "progress",
)  # fmt: skip

GONE = (
    "metrics", "corruption", "chunk", "at_once", "resume", "options", "switches", "runs_at_once", "verbose",
)  # fmt: skip


def verbs() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, by its dotted name."""
    for name in ("patch", "plan", "path_patch", "attribute", "explore", "load", "optimal_ablation"):
        yield f"interp.{name}", getattr(interp, name)
    for package in PACKAGES:
        yield from functions_of(f"interp.{package}", getattr(interp, package))


def functions_of(path: str, module: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The functions that a package exports, and those that its public sub-modules define."""
    exported = getattr(module, "__all__", None)
    for name in dir(module) if exported is None else exported:
        if name.startswith("_"):
            continue
        value = getattr(module, name)
        if inspect.isfunction(value):
            if exported is not None or value.__module__ == module.__name__:
                yield f"{path}.{name}", value
        elif inspect.ismodule(value) and value.__name__.startswith(path + "."):
            yield from functions_of(f"{path}.{name}", value)
