"""The figures that suit a result, and a page of several results and circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
import xarray as xr

from interp import plot
from interp.plot._cells import several_units
from interp.report._page import write

if TYPE_CHECKING:
    from interp.circuits import Circuit

LEVEL = 0.95
_HEATMAPS: dict[tuple[str, ...], Callable[..., go.Figure]] = {
    ("layer", "head"): plot.heads,
    ("score", "layer", "head"): plot.heads,
    ("layer", "pos"): plot.positions,
    ("layer", "span"): plot.positions,
}
_OWN: dict[str, Callable[..., go.Figure]] = {  # by the method of a result that is no map of cells
    "curve": plot.curve,
    "probe": plot.probes,
    "sweep": plot.steering,
}
_TABLES_ONLY = ("evaluate", "generations")


def figures(result: xr.Dataset, level: float = LEVEL) -> list[go.Figure]:
    """What suits a result: for each metric a heatmap, where the dims have one, and its largest cells."""
    method = str(result.attrs.get("method"))
    if method in _TABLES_ONLY:
        return []
    if method in _OWN:
        several = metric_names(result) if method == "curve" else [None]
        return [_OWN[method](result, **({} if name is None else {"metric": name})) for name in several]
    if "value" not in result:
        raise ValueError(
            f"a result has no variable 'value', only {list(map(str, result.data_vars))}. Give what a verb "
            "returned, whole."
        )
    interval = level if several_units(result) else None  # one unit has no interval
    dims = tuple(
        str(dim) for dim in result["value"].dims if dim not in ("prompt", "site", "receiver", "metric")
    )
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
    """What the result is, in a line: method, model, task, site, direction."""
    facts = [str(result.attrs.get(name, "")) for name in ("model", "task", "site", "direction")]
    return " · ".join(fact for fact in facts if fact and fact != "none")


def write_page(
    results: Sequence[xr.Dataset | Circuit],
    path: Path,
    title: str,
    opening: str = "",
    level: float = LEVEL,
) -> Path:
    """A page with the figures and the table of every result, and the picture of every circuit."""
    items: list = [opening] if opening else []
    for result in results:
        if not isinstance(result, xr.Dataset):
            items += [("heading", result.name), plot.circuit(result), result]
            continue
        method = str(result.attrs.get("method", ""))
        items += [("heading", " · ".join(filter(None, (method, heading(result)))))]
        items += [*figures(result, level), result]
    return write(items, path, title=title)
