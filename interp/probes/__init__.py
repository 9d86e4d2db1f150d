"""Probes: what can be read from activations, by layer and head, against shuffled labels.

Importing this package loads no torch; the first use of a name does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.probes import aggregate as aggregate
    from interp.probes import calibration as calibration
    from interp.probes import selectors as selectors
    from interp.probes import splits as splits
    from interp.probes._fit import fit as fit
    from interp.probes._probes import Probes as Probes

__all__ = ["Probes", "fit", "selectors"]
__getattr__, __dir__ = lazy(
    __name__,
    {"interp.probes._fit": ("fit",), "interp.probes._probes": ("Probes",)},
    submodules=("aggregate", "calibration", "selectors", "splits"),
)
