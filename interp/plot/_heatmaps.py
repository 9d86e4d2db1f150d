"""Heatmaps of effects: layer × head, layer × position; a panel a site, one colour scale centred on 0.

Layer 0 is on top. A cell without a value is grey with a cross, so that it never looks like one of no effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp._verbs import verb
from interp.plot import _theme as theme
from interp.plot import _words as words
from interp.plot._cells import PANELS, Cells, cells_of, every, hover, require_dataset, require_dims
from interp.plot._theme import escape, token_axis, token_labels

_LEFT, _RIGHT, _GAP = 64, 116, 28  # pixels: margins, and between panels side by side
_ROOM = theme.WIDTH - _LEFT - _RIGHT
_NARROW = 11  # pixels: columns below it ask for fewer panels side by side
_NUMBERS = 46  # pixels that a number in a cell needs


@verb
def heads(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
    title: str | None = None,
    *,
    zmax: float | None = None,
) -> go.Figure:
    """The effect of every head, averaged over prompts: layer × head, a panel a site (q, k, v, pattern, z).

    What `interp.heads` gives is drawn alike, a panel a score, a part of the scores, or a norm of back-up.

    result: dims prompt, (site, score, part or norm,) layer, head; or means or intervals of one from
        `interp.stats`. Of paths (`interp.path_patch`) a panel a receiver.
    normalise: divide by the mean of clean - corrupt (ratio of means).
    interval: a level such as 0.95, or a Dataset of `stats.bootstrap`; shown on hover.
    metric: which one, where the result has several. zmax: the end of the colour scale, so that several
    figures share one or a huge cell does not flatten the rest (default: the largest |effect|).

    Raises ValueError for what is no result, and for other dims.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=4), "z", progress=False)
        >>> interp.plot.heads(result, normalise=True).layout.title.text
        '<b>Effect of each head (z)</b>'
    """
    require_dataset(result, "heads")
    title = title or words.heading(result, words.each_head(result))
    require_dims(result, "heads", ("layer", "head"))
    cells = cells_of(result, normalise, interval, metric)
    axes = Axes("head", "layer", "head", _numbered(cells.value.sizes["head"]), below=24)
    return _panels(cells, axes, title, zmax)


@verb
def positions(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
    head: int | None = None,
    title: str | None = None,
    *,
    zmax: float | None = None,
) -> go.Figure:
    """The effect of every layer at every position, averaged over prompts: layer × position, over tokens.

    result: dims prompt, (site,) layer, pos; or span in the place of pos, which lines up prompts of different
    templates and lengths by name; or with a head dim, of which `head` picks one index.
    The other arguments and the errors are those of `plot.heads`.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, template=1)
        >>> result = interp.patch(model, task, "resid_pre", progress=False)
        >>> len(interp.plot.positions(result).data)
        1
    """
    require_dataset(result, "positions")
    shown = result if head is None else _one_head(result, head)
    dim = "span" if isinstance(shown, xr.Dataset) and "span" in shown.dims else "pos"
    require_dims(shown, "positions", ("layer", dim))
    if isinstance(interval, xr.Dataset) and "head" in interval.dims:
        interval = _one_head(interval, head)
    cells = cells_of(shown, normalise, interval, metric)
    labels = token_labels(shown, dim)
    ticks = token_axis(labels, _ROOM // _columns(cells, dim))
    below = 24 if ticks["tickangle"] == 0 else 18 + int(6.5 * max(map(len, labels), default=1))
    noun = words.noun(result.attrs)
    site = str(result.attrs.get("site", "")) if "site" not in cells.value.dims and noun == "effect" else ""
    x_title = "position" if dim == "pos" else "span"
    text = f"{noun} by {x_title}{f' ({site})' if site else ''}" + ("" if head is None else f", head {head}")
    axes = Axes(dim, "layer", x_title, ticks, below=below)
    return _panels(cells, axes, title or words.heading(result, text), zmax)


def _one_head(result: xr.Dataset, head: int | None) -> xr.Dataset:
    if "head" not in result.dims:
        raise ValueError(
            f"head={head} was given, but the result has no head dim: it has {dict(result.sizes)}."
        )
    known = result["head"].values
    if head not in known:
        raise ValueError(f"head is {head}; the result has heads {known.min()} to {known.max()}.")
    return result.sel(head=head)


def _numbered(n: int) -> dict:
    """Ticks at whole numbers, every k-th where there are many."""
    return {"dtick": max(1, math.ceil(n / 48)), "tickangle": 0}


@dataclass(frozen=True)
class Axes:
    """The two axes of every panel: dims, the title of x, the settings of its ticks."""

    x: str
    y: str
    x_title: str
    ticks: dict
    below: int  # pixels for the tick labels under a panel


def _columns(cells: Cells, x: str) -> int:
    """Panels side by side: three at most, two of four, fewer where columns would be too narrow."""
    n = int(np.prod([cells.value.sizes.get(dim, 1) for dim in PANELS]))
    most = max(1, _ROOM // (_NARROW * cells.value.sizes[x]))
    return min(2 if n == 4 else 3, n, most)


def _panels(cells: Cells, axes: Axes, title: str, zmax: float | None) -> go.Figure:
    """One heatmap, or one a site (receiver, score, ...) where there is such a dim."""
    by = next((dim for dim in PANELS if dim in cells.value.dims), "")
    sites = [str(s) for s in cells.value[by].values] if by else []
    sites = [name.replace("_", " ") for name in sites] if by == "score" else sites
    n, n_columns = max(1, len(sites)), _columns(cells, axes.x)
    n_rows = math.ceil(n / n_columns)
    height, spacing = _height(cells, axes, n_rows)
    fig = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[f"<b>{escape(site)}</b>" for site in sites] or None,
        horizontal_spacing=_GAP / _ROOM if n_columns > 1 else 0.0,
        vertical_spacing=spacing,
    )
    for number in range(n):
        row, column = divmod(number, n_columns)
        place: dict[str, Any] = {"row": row + 1, "col": column + 1}
        for trace in _heatmaps(cells.isel(**{by: number}) if by else cells, axes, n_columns):
            fig.add_trace(trace, **place)
        _label(fig, axes, place, first=column == 0, bottom=number + n_columns >= n)
    _dress(fig, cells, axes, title, height, bool(sites), zmax)
    return fig


def _label(fig: go.Figure, axes: Axes, place: dict, first: bool, bottom: bool) -> None:
    """Titles and ticks of one panel; layers are numbered in the first column only."""
    fig.update_xaxes(title_text=axes.x_title if bottom else None, **axes.ticks, **place)
    fig.update_yaxes(
        title_text=axes.y if first else None, showticklabels=first, ticks="outside" if first else "",
        autorange="reversed", dtick=1, **place,
    )  # fmt: skip


def _heatmaps(cells: Cells, axes: Axes, n_columns: int) -> list[go.Heatmap]:
    """The effects of one panel, and a grey cross wherever there is none."""
    value = cells.value.transpose(axes.y, axes.x)
    texts = np.array(hover(cells, every(cells.value)), dtype=object).reshape(cells.value.shape)
    texts = texts if cells.value.dims == value.dims else texts.T
    x = np.arange(value.sizes[axes.x]) if "tickvals" in axes.ticks else value[axes.x].values
    grid = {"x": x, "y": value[axes.y].values, "hovertext": texts, "hoverinfo": "text", "xgap": 1, "ygap": 1}
    numbers = _in_cells(value.values, n_columns)
    effects = go.Heatmap(z=value.values, coloraxis="coloraxis", hoverongaps=False, **numbers, **grid)
    empty = np.isnan(value.values)
    if not empty.any():
        return [effects]
    crosses = go.Heatmap(
        z=np.where(empty, 0.0, np.nan), text=np.where(empty, "×", ""), texttemplate="%{text}",
        textfont={"color": theme.INK, "size": 13}, showscale=False, hoverongaps=False,
        colorscale=[[0, theme.NOTHING], [1, theme.NOTHING]], **grid,
    )  # fmt: skip
    return [effects, crosses]


def _in_cells(values: np.ndarray, n_columns: int) -> dict:
    """Numbers in the cells, where they fit."""
    if values.shape[1] * n_columns * _NUMBERS > _ROOM:
        return {}
    text = np.array(
        [
            f"{round(float(v), 2) + 0.0:.2f}".replace("-", "−") if np.isfinite(v) else ""
            for v in values.ravel()
        ]
    )
    return {"text": text.reshape(values.shape), "texttemplate": "%{text}", "textfont": {"size": 11}}


def _height(cells: Cells, axes: Axes, n_rows: int) -> tuple[int, float]:
    """Pixels of the plotting area, and the gap between rows as a share of it."""
    n_y = cells.value.sizes[axes.y]
    panel = min(max(n_y * 30, 150), max(n_y * 16, 480))
    gap = axes.below + 34
    height = n_rows * panel + (n_rows - 1) * gap
    return height, gap / height if n_rows > 1 else 0.0


def _dress(
    fig: go.Figure, cells: Cells, axes: Axes, title: str, height: int, titled: bool, zmax: float | None
) -> None:
    fig.update_annotations(font_size=13, yshift=2)  # the panel titles
    heading, above = theme.titles(title, cells.subtitle)
    above += 18 if titled else 0
    below = axes.below + 34
    fig.update_layout(
        template=theme.template(),
        title=heading,
        coloraxis=theme.effect_axis(cells.value.values, cells.unit, height, zmax),
        height=height + above + below,
        margin={"l": _LEFT, "r": _RIGHT, "t": above, "b": below},
    )
