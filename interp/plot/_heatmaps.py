"""Heatmaps of effects: layer × head, layer × position; a panel a site, one colour scale centred on 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.plot import _theme as theme
from interp.plot._cells import Drawn, drawn, every, hover, require_dims
from interp.plot._theme import escape, token_axis, token_labels


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


_LEFT, _RIGHT, _GAP = 64, 116, 28
_NARROWEST, _WIDEST = 560, 1150  # a page; beyond it cells shrink, down to _NARROW_CELL
_NARROW_CELL = 16


@dataclass(frozen=True)
class Axes:
    """The two axes of every panel: dims, titles, and the settings of the horizontal ticks."""

    x: str
    y: str
    x_title: str
    y_title: str
    ticks: dict
    x_cell: int  # pixels a cell, at most
    below: int  # pixels for the tick labels under a panel


def panels(drawn: Drawn, axes: Axes, title: str, columns: int = 3) -> go.Figure:
    """One heatmap, or one a site where there is a `site` dim."""
    sites = [str(s) for s in drawn.value["site"].values] if "site" in drawn.value.dims else []
    n = max(1, len(sites))
    n_columns = min(columns, n) if n != 4 else 2
    n_rows = math.ceil(n / n_columns)
    width, height, spacing = _size(drawn, axes, n_rows, n_columns)
    fig = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[f"<b>{escape(site)}</b>" for site in sites] or None,
        horizontal_spacing=spacing[0],
        vertical_spacing=spacing[1],
    )
    for number in range(n):
        one = drawn.isel(site=number) if sites else drawn
        row, column = divmod(number, n_columns)
        fig.add_trace(_heatmap(one, axes), row + 1, column + 1)
        bottom = number + n_columns >= n
        fig.update_xaxes(
            title_text=axes.x_title if bottom else None, **axes.ticks, row=row + 1, col=column + 1
        )
        first = column == 0
        labels = {"title_text": axes.y_title if first else None, "showticklabels": first}
        labels["ticks"] = "outside" if first else ""
        fig.update_yaxes(**labels, autorange="reversed", dtick=1, row=row + 1, col=column + 1)
    _dress(fig, drawn, axes, title, width, height, bool(sites))
    return fig


def _heatmap(one: Drawn, axes: Axes) -> go.Heatmap:
    value = one.value.transpose(axes.y, axes.x)
    texts = np.array(hover(one, every(one.value)), dtype=object).reshape(one.value.shape)
    texts = texts if one.value.dims == value.dims else texts.T
    x = np.arange(value.sizes[axes.x]) if "tickvals" in axes.ticks else value[axes.x].values
    return go.Heatmap(
        z=value.values,
        x=x,
        y=value[axes.y].values,
        hovertext=texts,
        hoverinfo="text",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _size(drawn: Drawn, axes: Axes, n_rows: int, n_columns: int) -> tuple[int, int, tuple[float, float]]:
    """Pixels of the plotting area, and the gaps between panels as shares of it."""
    n_x, n_y = drawn.value.sizes[axes.x], drawn.value.sizes[axes.y]
    room = (_WIDEST - _LEFT - _RIGHT - (n_columns - 1) * _GAP) // (n_columns * n_x)
    one_x = max(n_x * min(axes.x_cell, max(room, _NARROW_CELL)), 130)
    one_y = min(max(n_y * 30, 150), max(n_y * 16, 480))
    width = max(n_columns * one_x + (n_columns - 1) * _GAP, _NARROWEST - _LEFT - _RIGHT)
    gap_y = axes.below + 34
    height = n_rows * one_y + (n_rows - 1) * gap_y
    return width, height, (_GAP / width, gap_y / height)


def _dress(
    fig: go.Figure, drawn: Drawn, axes: Axes, title: str, width: int, height: int, titled: bool
) -> None:
    fig.update_annotations(font_size=13, yshift=2)  # the panel titles
    whole = width + _LEFT + _RIGHT
    heading, above = theme.titles(title, drawn.subtitle, whole)
    above += 18 if titled else 0
    below = axes.below + 34
    fig.update_layout(
        template=theme.template(),
        title=heading,
        coloraxis=theme.effect_axis(drawn.value.values, drawn.unit, height),
        width=whole,
        height=height + above + below,
        margin={"l": _LEFT, "r": _RIGHT, "t": above, "b": below},
    )
