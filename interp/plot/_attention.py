"""Attention patterns: a tile for every head, or some heads with their tokens written out.

1. Up to `_PANELS` heads have a panel each, with tokens on both axes.
2. More are one mosaic, a row a layer and a column a head, in a single trace: 144 heads stay light. A menu, or
   a rectangle drawn with the pointer, enlarges one.
Each tile has a row for every token that attends and a column for every token attended to. What a causal model
cannot see is blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp._verbs import verb
from interp.places import hint
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import frame
from interp.plot._theme import escape, token_axis, visible

_PANELS = 12  # heads, at most, that have a panel each
_LEFT, _RIGHT, _GAP = 96, 96, 26  # pixels: margins, and between panels
_ROOM = look.WIDTH - _LEFT - _RIGHT
_NUMBER = 40  # pixels that a number in a cell needs
_TALLEST = 620  # pixels of the mosaic
_NEEDED = ("layer", "head", "dst", "src")


@verb
def attention(
    patterns: Any,
    prompts: Any = None,
    *,
    layer: int | Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    prompt: int = 0,
    weighting: str = "plain",
    title: str | None = None,
    theme: str = "auto",
) -> go.Figure:
    """Who attends to whom: a tile for each head, tokens that attend as rows, tokens attended to as columns.

    patterns: of `interp.heads.attention`; or a model, with the `prompts` to run (a text, or a task).
    layer: one, several or all. heads: some heads by name, such as ["L1H0", "L2H3"]; up to twelve have their
    tokens written out, more are one mosaic in which the menu, or a rectangle drawn with the pointer, enlarges
    a head. prompt: which of several. weighting: "value" multiplies each share with the norm of what the head
    would write of that token (for a model; a Dataset has its own).

    Cost: none for a Dataset; for a model one forward a prompt. Raises ValueError for another Dataset, and for
    a layer, head or prompt that is not there.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> text = "When Mary and John went to the store"
        >>> figure = interp.plot.attention(model, text, heads=["L1H0", "L2H3"])
        >>> [note.text for note in figure.layout.annotations]
        ['<b>L1H0</b>', '<b>L2H3</b>']
    """
    result = patterns if isinstance(patterns, xr.Dataset) else _run(patterns, prompts, layer, weighting)
    tiles = _tiles(result, layer, heads, prompt)
    unit = str(result.attrs.get("unit", "share of attention"))
    heading = title or f"Attention of {len(tiles.names)} heads"
    if len(tiles.names) == 1:
        heading = title or f"Attention of {tiles.names[0]}"
    parts = [words.subject(result), f"prompt {prompt}" if result.sizes.get("prompt", 1) > 1 else ""]
    parts += ["rows: the token that attends, columns: the token attended to", unit if "norm" in unit else ""]
    notes = " · ".join(filter(None, parts))
    few = len(tiles.names) <= _PANELS
    return (_panels if few else _mosaic)(tiles, heading, notes, theme)


def _run(model: Any, prompts: Any, layer: int | Sequence[int] | None, weighting: str) -> xr.Dataset:
    """The patterns of a model. What has torch is loaded here and nowhere else in this package."""
    if prompts is None:
        raise ValueError(
            f"plot.attention draws the Dataset of heads.attention, or a model with prompts, not a "
            f"{type(model).__name__} alone. Give plot.attention(model, 'a text')."
        )
    from interp import heads

    return heads.attention(model, prompts, layer=layer, weighting=weighting)


@dataclass(frozen=True)
class _Tiles:
    """Heads, their patterns [head, dst, src] with NaN where nothing can be seen, and the tokens."""

    names: list[str]
    values: np.ndarray
    rows: list[str]
    columns: list[str]
    n_columns: int | None  # heads of a layer, where whole layers are drawn
    is_share: bool

    @property
    def end(self) -> float:
        """Of the colour scale: 1 for shares, else the largest."""
        finite = self.values[np.isfinite(self.values)]
        return 1.0 if self.is_share else float(finite.max()) if finite.size and finite.max() > 0 else 1.0

    def axis(self) -> dict:
        """Shades of blue from 0."""
        unit = "share<br> " if self.is_share else "share<br>× norm<br> "
        bar = {
            "title": {"text": unit, "font": {"size": 12}},
            "thickness": 12, "outlinewidth": 0, "tickfont": {"size": 11}, "lenmode": "pixels", "len": 180,
            "y": 1.0, "yanchor": "top", "xpad": 14,
        }  # fmt: skip
        return {"colorscale": look.scale(look.SEQUENTIAL), "cmin": 0.0, "cmax": self.end, "colorbar": bar}


def _tiles(
    result: xr.Dataset, layer: int | Sequence[int] | None, heads: Sequence[str] | None, prompt: int
) -> _Tiles:
    missing = [dim for dim in _NEEDED if "value" not in result or dim not in result["value"].dims]
    if missing:
        raise ValueError(
            f"plot.attention draws the Dataset of heads.attention; this one lacks {', '.join(missing)}. "
            "Select with a list, as in isel(layer=[0]), so that the dims stay."
        )
    one = result
    if "prompt" in result.dims:
        n = result.sizes["prompt"]
        if not 0 <= prompt < n:
            raise ValueError(f"prompt is {prompt}; the result has prompts 0 to {n - 1}.")
        one = result.isel(prompt=prompt)
    layers = [int(each) for each in one["layer"].values]
    wanted = layers if layer is None else [layer] if isinstance(layer, int) else list(layer)
    if absent := [each for each in wanted if each not in layers]:
        raise ValueError(
            f"layer {absent[0]} is not there: the result has layers {layers[0]} to {layers[-1]}."
        )
    grid = one["value"].sel(layer=wanted).transpose(*_NEEDED)
    known = [f"L{each}H{head}" for each in wanted for head in one["head"].values]
    values = grid.values.astype(np.float32).reshape(len(known), *grid.shape[2:])
    if heads is not None and not heads:
        raise ValueError("heads is []; name one or more, or leave it out for all.")
    chosen = list(range(len(known))) if heads is None else [_index(name, known) for name in heads]
    seen, rows = _real(values[chosen], _tokens(one, "dst"), axis=1)
    seen, columns = _real(seen, _tokens(one, "src"), axis=2)
    share = "norm" not in str(result.attrs.get("unit", ""))
    n_columns = None if heads is not None else grid.shape[1]
    return _Tiles([known[i] for i in chosen], _causal(seen), rows, columns, n_columns, share)


def _index(name: str, known: list[str]) -> int:
    if name not in known:
        raise ValueError(
            f"head {name!r} is not there.{hint(name, known)} There are {known[0]} to {known[-1]}."
        )
    return known.index(name)


def _tokens(one: xr.Dataset, dim: str) -> list[str]:
    """The tokens of an axis, numbered so that each is another category."""
    name = f"{dim}_token"
    if name not in one.coords:
        return [str(each) for each in one[dim].values]
    return [f"{int(i)} {visible(str(token))}" for i, token in zip(one[dim].values, one[name].values)]


def _real(values: np.ndarray, labels: list[str], axis: int) -> tuple[np.ndarray, list[str]]:
    """Without the positions beyond the end of the prompt."""
    others = tuple(i for i in range(3) if i != axis)
    kept = np.flatnonzero(~np.isnan(values).all(others))
    return values.take(kept, axis), [labels[i] for i in kept]


def _causal(values: np.ndarray) -> np.ndarray:
    """NaN above the diagonal, where every head of a causal model has 0."""
    if values.shape[1] != values.shape[2] or values.shape[1] < 2:
        return values
    later = np.triu(np.ones(values.shape[1:], dtype=bool), 1)
    return np.where(later, np.float32("nan"), values) if not np.nan_to_num(values[:, later]).any() else values


def _bare(label: str) -> str:
    """The token without its number."""
    number, gap, token = label.partition(" ")
    return token if gap and number.isdigit() else label


def _panels(tiles: _Tiles, title: str, notes: str, theme: str) -> go.Figure:
    n = len(tiles.names)
    n_columns = min(n, 1 if n == 1 else 2 if n in (2, 4) else 3 if n <= 9 else 4)
    n_rows = math.ceil(n / n_columns)
    pixels = min(420, (_ROOM - _GAP * (n_columns - 1)) // n_columns)
    tall = max(80, min(pixels, pixels * len(tiles.rows) // max(len(tiles.columns), 1)))
    height = n_rows * tall + (n_rows - 1) * 34
    fig = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[f"<b>{name}</b>" for name in tiles.names] if n > 1 else None,
        horizontal_spacing=_GAP / _ROOM if n_columns > 1 else 0,
        vertical_spacing=34 / height if n_rows > 1 else 0,
    )
    across = token_axis([_bare(label) for label in tiles.columns], pixels)
    down = token_axis([_bare(label) for label in tiles.rows], tall)
    for i, name in enumerate(tiles.names):
        row, column = divmod(i, n_columns)
        place: dict[str, Any] = {"row": row + 1, "col": column + 1}
        fig.add_trace(_heatmap(tiles, tiles.values[i], name, pixels), **place)
        last, first = i + n_columns >= n, column == 0
        fig.update_xaxes(**_categories(across, last), **place)
        fig.update_yaxes(**_categories(down, first), autorange="reversed", **place)
        fig.update_yaxes(tickangle=0, **place)
    fig.update_annotations(font_size=13, yshift=2)
    fig.update_layout(coloraxis=tiles.axis())
    longest = max(map(len, map(_bare, tiles.columns)), default=1)
    left = max(_LEFT, 30 + int(6.5 * max(map(len, map(_bare, tiles.rows)), default=1)))
    margins = {"left": left, "right": _RIGHT, "below": 24 + int(6.5 * longest), "above": 20 if n > 1 else 0}
    return frame(fig, title, notes, theme=theme, height=height, **margins)


def _categories(ticks: dict, labelled: bool) -> dict:
    """A category axis with the ticks of tokens."""
    return {**ticks, "type": "category", "showticklabels": labelled, "ticks": "outside" if labelled else ""}


def _heatmap(tiles: _Tiles, values: np.ndarray, name: str, pixels: int) -> go.Heatmap:
    numbers = {}
    if len(tiles.columns) * _NUMBER <= pixels:
        text = [[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in values]
        numbers = {"text": text, "texttemplate": "%{text}", "textfont": {"size": 11}}
    return go.Heatmap(
        z=values, x=list(map(escape, tiles.columns)), y=list(map(escape, tiles.rows)), coloraxis="coloraxis",
        hovertemplate=f"<b>{name}</b><br>from %{{y}}<br>to %{{x}}<br>%{{z:.3f}}<extra></extra>",
        hoverongaps=False, xgap=1, ygap=1, **numbers,
    )  # fmt: skip


def _mosaic(tiles: _Tiles, title: str, notes: str, theme: str) -> go.Figure:
    """All tiles in one heatmap, with a line of nothing between them."""
    n_columns = tiles.n_columns or math.ceil(math.sqrt(len(tiles.names)))
    n_rows = math.ceil(len(tiles.names) / n_columns)
    n_dst, n_src = len(tiles.rows), len(tiles.columns)
    whole = np.full((n_rows * (n_dst + 1) - 1, n_columns * (n_src + 1) - 1), np.nan, dtype=np.float32)
    for i, values in enumerate(tiles.values):
        row, column = divmod(i, n_columns)
        top, start = row * (n_dst + 1), column * (n_src + 1)
        whole[top : top + n_dst, start : start + n_src] = values
    by_layer = tiles.n_columns is not None
    firsts, uppers = tiles.names[::n_columns], tiles.names[:n_columns]
    sides = [name.partition("H")[0] if by_layer else f"row {i}" for i, name in enumerate(firsts)]
    tops = [f"H{name.partition('H')[2]}" if by_layer else f"column {i}" for i, name in enumerate(uppers)]
    fig = go.Figure(
        go.Heatmap(
            z=whole, x=_along(tops, tiles.columns), y=_along(sides, tiles.rows), coloraxis="coloraxis",
            hovertemplate="%{y}<br>→ %{x}<br><b>%{z:.3f}</b><extra></extra>", hoverongaps=False,
        )
    )  # fmt: skip
    across, down = _middles(tops, n_src), _middles(sides, n_dst)
    down |= {"range": down["range"][::-1], "ticklabelstandoff": 6}  # the first layer is on top
    fig.update_xaxes(type="category", **across)
    fig.update_yaxes(type="category", **down)
    height = min(_TALLEST, max(240, n_rows * 52))
    fig.update_layout(
        coloraxis=tiles.axis(),
        updatemenus=[_menu(tiles, n_columns, across, down)],
        shapes=_lines(n_rows, n_columns, n_dst, n_src),
    )
    margins = {"left": _LEFT, "right": _RIGHT, "below": 70, "above": 34}
    return frame(fig, title, f"{notes} · choose a head to enlarge it", theme=theme, height=height, **margins)


def _along(groups: list[str], labels: list[str]) -> list[str]:
    """The categories of one side of the mosaic: each token of each tile, and a gap after all but the last."""
    out = []
    for group in groups:
        out += [f"{group}: {escape(label)}" for label in labels] + [f"{group}:"]
    return out[:-1]


def _middles(groups: list[str], size: int) -> dict:
    """A tick in the middle of each tile, and the range of all."""
    step = size + 1
    vals = [i * step + (size - 1) / 2 for i in range(len(groups))]
    return {
        "tickmode": "array", "tickvals": [round(v) for v in vals], "ticktext": list(groups), "tickangle": 0,
        "range": [-0.5, len(groups) * step - 1.5], "ticks": "",
    }  # fmt: skip


def _lines(n_rows: int, n_columns: int, n_dst: int, n_src: int) -> list[dict]:
    """Thin lines in the gaps between tiles."""
    style = {"type": "line", "line": {"color": look.LINES, "width": 1}, "layer": "below"}
    down = [i * (n_dst + 1) - 1 for i in range(1, n_rows)]
    across = [i * (n_src + 1) - 1 for i in range(1, n_columns)]
    rows = [{**style, "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y} for y in down]
    return rows + [{**style, "yref": "paper", "y0": 0, "y1": 1, "x0": x, "x1": x} for x in across]


def _menu(tiles: _Tiles, n_columns: int, across: dict, down: dict) -> dict:
    """Enlarges a head by moving both axes to its tile."""
    buttons = [{"label": "all heads", "method": "relayout", "args": [_moved(across, down)]}]
    sizes = len(tiles.columns), len(tiles.rows)
    x_ticks, y_ticks = (token_axis(list(map(_bare, labels)), 400) for labels in (tiles.columns, tiles.rows))
    for i, name in enumerate(tiles.names):
        row, column = divmod(i, n_columns)
        left, top = column * (sizes[0] + 1), row * (sizes[1] + 1)
        x, y = _shifted(x_ticks, left), _shifted(y_ticks, top)
        x |= {"range": [left - 0.5, left + sizes[0] - 0.5]}
        y |= {"range": [top + sizes[1] - 0.5, top - 0.5], "tickangle": 0}
        buttons.append({"label": name, "method": "relayout", "args": [_moved(x, y)]})
    return {
        "buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 6},
        "bgcolor": look.SURFACE, "bordercolor": look.LINES, "font": {"color": look.INK, "size": 11},
    }  # fmt: skip


def _shifted(ticks: dict, start: int) -> dict:
    return {**ticks, "tickvals": [start + value for value in ticks["tickvals"]]}


def _moved(x: dict, y: dict) -> dict:
    """What relayout needs to give both axes other ranges and ticks."""
    keys = ("range", "tickvals", "ticktext", "tickangle")
    return {f"{axis}axis.{key}": side[key] for axis, side in (("x", x), ("y", y)) for key in keys}
