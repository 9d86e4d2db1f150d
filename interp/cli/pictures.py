"""The figures that suit a result, chosen by its dims."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import xarray as xr

from interp import plot

_HEATMAPS: dict[tuple[str, ...], Callable[..., go.Figure]] = {
    ("layer", "head"): plot.heads,
    ("layer", "pos"): plot.positions,
}
_LEVEL = 0.95


def figures(result: xr.Dataset) -> list[go.Figure]:
    """For each metric a heatmap, where the dims have one, and the largest cells as bars."""
    interval = _LEVEL if result.sizes["prompt"] > 1 else None  # one prompt has no interval
    dims = tuple(str(dim) for dim in result["value"].dims if dim not in ("prompt", "site", "metric"))
    drawn: list[go.Figure] = []
    for metric in metric_names(result):
        if dims in _HEATMAPS:
            drawn.append(_HEATMAPS[dims](result, interval=interval, metric=metric))
        drawn.append(plot.bars(result, interval=interval, metric=metric))
    return drawn


def metric_names(result: xr.Dataset) -> list[str | None]:
    """The metrics to draw; None stands for the only one."""
    return [str(name) for name in result["metric"].values] if "metric" in result.dims else [None]


def heading(result: xr.Dataset) -> str:
    """What the result is, in a line: model, task, site, direction."""
    facts = [str(result.attrs.get(name, "")) for name in ("model", "task", "site", "direction")]
    return " · ".join(fact for fact in facts if fact)
