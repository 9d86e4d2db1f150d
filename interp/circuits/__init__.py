"""Circuits: the graph of a model, sets of its edges, and the circuits that are known.

Importing this package loads no torch; the first use of a name that needs it does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from interp.circuits.catalogue import known_names as known_names

if TYPE_CHECKING:
    from interp.circuits.circuit import Circuit as Circuit
    from interp.circuits.graph import Graph as Graph
    from interp.circuits.known_circuits import known as known

_LAZY = {
    "Circuit": "interp.circuits.circuit",
    "Graph": "interp.circuits.graph",
    "known": "interp.circuits.known_circuits",
}

__all__ = ["Circuit", "Graph", "known", "known_names"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'interp.circuits' has no attribute {name!r}; it has {', '.join(__all__)}")
