"""Heatmaps in panels that share their axes and one colour scale centred on 0."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plot import theme
from interp.plot.cells import every, hover
from interp.plot.drawn import Drawn
from interp.plot.labels import escape

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
