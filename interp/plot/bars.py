"""Bars: the cells with the largest effects, whatever the dims, with their intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plot import theme
from interp.plot.cells import cell_names, hover
from interp.plot.drawn import Drawn, drawn
from interp.plot.labels import escape, visible

_BAR, _RIGHT, _WIDTH = 24, 32, 720


def bars(
    result: xr.Dataset,
    top: int = 15,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """The `top` cells by |effect|, the largest above; the error bars are intervals over prompts.

    Takes a result of any dims. The other arguments are those of `plot.heads`. One prompt has no interval.
    """
    if top < 1:
        raise ValueError(f"top is {top}; draw at least 1 cell.")
    if result.sizes.get("prompt") == 1 and not isinstance(interval, xr.Dataset):
        interval = None
    cells = drawn(result, normalise, interval, metric)
    order = largest(cells.value.values, top)
    value = cells.value.values.ravel()[order]
    names = [escape(name) for name in _labels(cells)[order]]
    trace = go.Bar(
        x=value,
        y=np.arange(len(order)),
        orientation="h",
        marker={"color": [theme.POSITIVE if v > 0 else theme.NEGATIVE for v in value], "line": {"width": 0}},
        error_x=_errors(cells, value, order),
        hovertext=hover(cells).ravel()[order],
        hoverinfo="text",
        showlegend=False,
    )
    fig = go.Figure(trace)
    _dress(fig, cells, names, title or f"The {len(order)} largest effects")
    return fig


def largest(values: np.ndarray, top: int) -> np.ndarray:
    """Flat indices of the `top` largest |values|, largest first; cells that do not exist left out."""
    flat = np.abs(values.ravel().astype(float))
    order = np.argsort(-np.nan_to_num(flat, nan=-1.0), kind="stable")[:top]
    return order[~np.isnan(flat[order])]


def _labels(cells: Drawn) -> np.ndarray:
    """Names, with the token where a cell has a position."""
    value, names = cells.value, cell_names(cells.value, cells.attrs)
    if "pos" in value.dims and "token" in value.coords:
        shown = [f"  {visible(token)}" for token in value["token"].values]
        shape = [-1 if dim == "pos" else 1 for dim in value.dims]
        names = names + np.array(shown, dtype=object).reshape(shape)
    return names.ravel()


def _errors(cells: Drawn, value: np.ndarray, order: np.ndarray) -> dict | None:
    if cells.low is None or cells.high is None:
        return None
    low, high = (end.values.ravel()[order] for end in (cells.low, cells.high))
    style = {"color": theme.INK, "thickness": 1.2, "width": 4}
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, **style}


def _dress(fig: go.Figure, cells: Drawn, names: list[str], title: str) -> None:
    left = 28 + int(7.2 * max(map(len, names), default=4))
    heading, above = theme.titles(title, cells.subtitle, _WIDTH)
    fig.update_layout(
        template=theme.template(),
        title=heading,
        bargap=0.3,
        width=_WIDTH,
        height=above + 62 + max(90, _BAR * len(names)),
        margin={"l": left, "r": _RIGHT, "t": above, "b": 62},
    )
    fig.update_yaxes(tickmode="array", tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    grid = {"showgrid": True, "gridcolor": "#eceff3", "zeroline": True, "zerolinecolor": theme.MUTED}
    fig.update_xaxes(title_text=f"effect ({escape(cells.unit)})", zerolinewidth=1, **grid)
