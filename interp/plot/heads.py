"""Layer × head heatmap, a panel a site (q, k, v, pattern, z) where there are several; layer 0 on top."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from interp.plot.drawn import drawn
from interp.plot.heatmap import Axes, panels
from interp.plot.wanted import require_dims


def heads(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """The effect of every head, averaged over prompts.

    result: dims prompt, (site,) layer, head; or means or intervals of one from `interp.stats`.
    normalise: divide by the mean of clean - corrupt (ratio of means).
    interval: a level such as 0.95, or a Dataset of `stats.bootstrap`; shown on hover.
    metric: which one, where the result has several.
    """
    require_dims(result, "heads", ("layer", "head"))
    cells = drawn(result, normalise, interval, metric)
    ticks = {"dtick": 1, "tickangle": 0}
    axes = Axes("head", "layer", "head", "layer", ticks, x_cell=32, below=24)
    site = "" if "site" in cells.value.dims else f" ({result.attrs.get('site', 'z')})"
    return panels(cells, axes, title or f"Effect of each head{site}")
