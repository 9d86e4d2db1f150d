"""Probes: what can be read from activations, by layer and head, against shuffled labels.

Importing this package loads no torch; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.probes import aggregate as aggregate
    from interp.probes import calibration as calibration
    from interp.probes.fitting import fit as fit
    from interp.probes.probe import Probes as Probes

_HOME = {"Probes": "interp.probes.probe", "fit": "interp.probes.fitting"}
_MODULES = ("aggregate", "calibration")

__all__ = ["Probes", "aggregate", "calibration", "fit"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"interp.probes.{name}")
    raise AttributeError(f"module 'interp.probes' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
