"""Probes: what can be read from activations, against shuffled labels; monitors that read while text grows.

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
    from interp.probes import thresholds as thresholds
    from interp.probes._cascade import cascade as cascade
    from interp.probes._collective import collective as collective
    from interp.probes._fit import fit as fit
    from interp.probes._pairs import pairs as pairs
    from interp.probes._probes import Probes as Probes
    from interp.probes._question import Question as Question
    from interp.probes._reliability import reliability as reliability
    from interp.probes._table import table as table
    from interp.probes._watch import stream as stream
    from interp.probes._watch import watch as watch

__all__ = [
    "Probes", "Question", "cascade", "collective", "fit", "pairs", "reliability", "selectors", "stream",
    "table", "thresholds", "watch",
]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.probes._cascade": ("cascade",),
        "interp.probes._collective": ("collective",),
        "interp.probes._fit": ("fit",),
        "interp.probes._pairs": ("pairs",),
        "interp.probes._probes": ("Probes",),
        "interp.probes._question": ("Question",),
        "interp.probes._reliability": ("reliability",),
        "interp.probes._table": ("table",),
        "interp.probes._watch": ("stream", "watch"),
    },
    submodules=("aggregate", "calibration", "selectors", "splits", "thresholds"),
)
