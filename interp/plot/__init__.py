"""Pictures of results. Every function takes a result and returns a plotly Figure; none shows it. No torch.

Effects are drawn on red to blue, centred on 0: blue is positive (the component helps), red negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.plot._agreement import agreement as agreement
    from interp.plot._attention import attention as attention
    from interp.plot._bars import bars as bars
    from interp.plot._circuit import circuit as circuit
    from interp.plot._compare import compare as compare
    from interp.plot._contexts import contexts as contexts
    from interp.plot._curve import curve as curve
    from interp.plot._edits import edits as edits
    from interp.plot._export import save_html as save_html
    from interp.plot._export import save_image as save_image
    from interp.plot._feature_graph import feature_graph as feature_graph
    from interp.plot._features import features as features
    from interp.plot._heatmaps import heads as heads
    from interp.plot._heatmaps import positions as positions
    from interp.plot._lens import lens as lens
    from interp.plot._probes import probes as probes
    from interp.plot._reliability import reliability as reliability
    from interp.plot._steering import steering as steering
    from interp.plot._subspace import subspace as subspace
    from interp.plot._tokens import TokenStrip as TokenStrip
    from interp.plot._tokens import tokens as tokens

__all__ = [
    "TokenStrip",
    "agreement",
    "attention",
    "bars",
    "circuit",
    "compare",
    "contexts",
    "curve",
    "edits",
    "feature_graph",
    "features",
    "heads",
    "lens",
    "positions",
    "probes",
    "reliability",
    "save_html",
    "save_image",
    "steering",
    "subspace",
    "tokens",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.plot._agreement": ("agreement",),
        "interp.plot._attention": ("attention",),
        "interp.plot._bars": ("bars",),
        "interp.plot._circuit": ("circuit",),
        "interp.plot._compare": ("compare",),
        "interp.plot._curve": ("curve",),
        "interp.plot._edits": ("edits",),
        "interp.plot._export": ("save_html", "save_image"),
        "interp.plot._contexts": ("contexts",),
        "interp.plot._feature_graph": ("feature_graph",),
        "interp.plot._features": ("features",),
        "interp.plot._heatmaps": ("heads", "positions"),
        "interp.plot._lens": ("lens",),
        "interp.plot._probes": ("probes",),
        "interp.plot._reliability": ("reliability",),
        "interp.plot._steering": ("steering",),
        "interp.plot._subspace": ("subspace",),
        "interp.plot._tokens": ("TokenStrip", "tokens"),
    },
)
