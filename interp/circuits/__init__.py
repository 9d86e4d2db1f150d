"""Circuits: the graph of a model, sets of its edges, and the circuits that are known.

Importing this package loads no torch; the first use of a name that needs it does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from interp.circuits.catalogue import known_names as known_names

if TYPE_CHECKING:
    from interp.circuits.acdc import acdc as acdc
    from interp.circuits.acdc_sweep import acdc_sweep as acdc_sweep
    from interp.circuits.acdc_trace import trace as trace
    from interp.circuits.circuit import Circuit as Circuit
    from interp.circuits.compare import compare as compare
    from interp.circuits.curve import curve as curve
    from interp.circuits.evaluate import evaluate as evaluate
    from interp.circuits.exact import exact as exact
    from interp.circuits.graph import Graph as Graph
    from interp.circuits.hypothesis_tests import hypothesis_tests as hypothesis_tests
    from interp.circuits.known_circuits import known as known
    from interp.circuits.random_baseline import random_baseline as random_baseline
    from interp.circuits.roc import roc as roc
    from interp.circuits.run import run as run
    from interp.circuits.score_edges import score_edges as score_edges
    from interp.circuits.score_nodes import score_nodes as score_nodes
    from interp.circuits.select import greedy as greedy
    from interp.circuits.select import prune as prune
    from interp.circuits.select import threshold as threshold
    from interp.circuits.select import top as top
    from interp.circuits.train_mask import train_mask as train_mask

_LAZY = {
    "roc": "interp.circuits.roc",
    "random_baseline": "interp.circuits.random_baseline",
    "hypothesis_tests": "interp.circuits.hypothesis_tests",
    "evaluate": "interp.circuits.evaluate",
    "curve": "interp.circuits.curve",
    "compare": "interp.circuits.compare",
    "Circuit": "interp.circuits.circuit",
    "Graph": "interp.circuits.graph",
    "acdc": "interp.circuits.acdc",
    "acdc_sweep": "interp.circuits.acdc_sweep",
    "exact": "interp.circuits.exact",
    "known": "interp.circuits.known_circuits",
    "run": "interp.circuits.run",
    "trace": "interp.circuits.acdc_trace",
    "greedy": "interp.circuits.select",
    "prune": "interp.circuits.select",
    "score_edges": "interp.circuits.score_edges",
    "score_nodes": "interp.circuits.score_nodes",
    "threshold": "interp.circuits.select",
    "top": "interp.circuits.select",
    "train_mask": "interp.circuits.train_mask",
}

__all__ = [
    "Circuit",
    "Graph",
    "acdc",
    "acdc_sweep",
    "compare",
    "curve",
    "evaluate",
    "exact",
    "greedy",
    "hypothesis_tests",
    "known",
    "known_names",
    "prune",
    "random_baseline",
    "roc",
    "run",
    "score_edges",
    "score_nodes",
    "threshold",
    "top",
    "trace",
    "train_mask",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'interp.circuits' has no attribute {name!r}; it has {', '.join(__all__)}")


class _Package(ModuleType):
    """`circuits.run` is the function, also after its module of the same name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
