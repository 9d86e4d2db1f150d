"""Layer × position heatmap over tokens, a panel a site where there are several; layer 0 on top."""

from __future__ import annotations

import plotly.graph_objects as go
import xarray as xr

from interp.plot.drawn import drawn
from interp.plot.heatmap import Axes, panels
from interp.plot.labels import token_axis, token_labels
from interp.plot.wanted import require_dims


def positions(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
    head: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """The effect of every layer at every position, averaged over prompts.

    result: dims prompt, (site,) layer, pos; or with a head dim, of which `head` picks one index.
    The other arguments are those of `plot.heads`.
    """
    shown = result if head is None else _one_head(result, head)
    require_dims(shown, "positions", ("layer", "pos"))
    if isinstance(interval, xr.Dataset) and "head" in interval.dims:
        interval = _one_head(interval, head)
    cells = drawn(shown, normalise, interval, metric)
    labels = token_labels(shown)
    longest = max(map(len, labels), default=1)
    ticks = token_axis(labels)
    below = 24 if ticks["tickangle"] == 0 else 18 + int(6 * longest)
    axes = Axes("pos", "layer", "position", "layer", ticks, x_cell=30, below=below)
    what = str(result.attrs.get("site", "")) if "site" not in cells.value.dims else ""
    words = f"Effect by position{f' ({what})' if what else ''}" + ("" if head is None else f", head {head}")
    return panels(cells, axes, title or words)


def _one_head(result: xr.Dataset, head: int | None) -> xr.Dataset:
    if "head" not in result.dims:
        raise ValueError(
            f"head={head} was given, but the result has no head dim: it has {dict(result.sizes)}."
        )
    known = result["head"].values
    if head not in known:
        raise ValueError(f"head is {head}; the result has heads {known.min()} to {known.max()}.")
    return result.sel(head=head)
