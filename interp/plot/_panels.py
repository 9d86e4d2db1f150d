"""Heatmaps side by side on one colour scale centred on 0: layer × head, layer × position.

Layer 0 is on top. A cell without a value is hatched, so that it never looks like one of no effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from interp.plot import _theme as look
from interp.plot._cells import Cells, cell_names, every, hover
from interp.plot._frame import SEPARATOR, frame
from interp.plot._theme import escape, number, token_axis

_LEFT, _RIGHT, _GAP = 64, 116, 28  # pixels: margins, and between panels side by side
_ROOM = look.WIDTH - _LEFT - _RIGHT
_NARROW = 11  # pixels: columns below it ask for fewer panels side by side
_LETTER = 7.0  # pixels of a letter of a panel's title
_NUMBERS = 46  # pixels that a number in a cell needs
_LABELS = 24  # pixels of ticks that lie flat
_AXIS = {"pos": "position"}
_SHARE = "share of attention"  # from 0 to 1; a difference of two has negative values
_NAMED = 3  # cells beyond the scale whose names are told


@dataclass(frozen=True)
class Panel:
    """One heatmap of layers by `x`, its title, and the labels of x where the numbers do not do."""

    name: str
    cells: Cells
    x: str
    labels: list[str] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and columns."""
        return self.cells.value.sizes["layer"], self.cells.value.sizes[self.x]

    @property
    def values(self) -> np.ndarray:
        """The cells, (layer, x)."""
        return self.cells.value.transpose("layer", self.x).values

    def ticks(self, pixels: int) -> dict:
        """Ticks of x on so many pixels."""
        if self.labels is not None:
            return token_axis(self.labels, pixels)
        n = self.shape[1]
        shown = list(range(0, n, max(1, math.ceil(n * 20 / pixels))))
        names = [str(self.cells.value[self.x].values[i]) for i in shown]
        return {"tickmode": "array", "tickvals": shown, "ticktext": names, "tickangle": 0}

    def below(self, pixels: int) -> int:
        """Pixels of the labels under the panel."""
        if self.labels is None or self.ticks(pixels)["tickangle"] == 0:
            return _LABELS
        return 18 + int(6.5 * max(map(len, self.labels), default=1))


def draw(
    panels: Sequence[Panel], title: str, subtitle: str, zmax: float | None, theme: str = "auto"
) -> go.Figure:
    """The panels in rows, on one scale that ends at zmax."""
    n_columns = _columns(panels)
    n_rows, pixels = math.ceil(len(panels) / n_columns), _ROOM // n_columns
    below = max(panel.below(pixels) for panel in panels)
    height, spacing = _height(max(panel.shape[0] for panel in panels), below, n_rows)
    titled = any(panel.name for panel in panels)
    fig = make_subplots(
        n_rows,
        n_columns,
        subplot_titles=[f"<b>{escape(panel.name)}</b>" for panel in panels] if titled else None,
        horizontal_spacing=_GAP / _ROOM if n_columns > 1 else 0.0,
        vertical_spacing=spacing,
    )
    end = _end([panel.values for panel in panels], zmax)
    alike = len({panel.cells.value["layer"].values.tobytes() for panel in panels}) == 1
    for i, panel in enumerate(panels):
        row, column = divmod(i, n_columns)
        place: dict[str, Any] = {"row": row + 1, "col": column + 1}
        for trace in _traces(panel, n_columns, end):
            fig.add_trace(trace, **place)
        fig.update_xaxes(**_x_axis(panel, pixels, titled=i + n_columns >= len(panels)), **place)
        fig.update_yaxes(**_y_axis(panel, titled=column == 0, numbered=column == 0 or not alike), **place)
    fig.update_annotations(font_size=13, yshift=2)  # the panel titles
    beyond = _beyond(panels, end)
    unit = panels[0].cells.unit
    shares = unit == _SHARE and all((panel.values[np.isfinite(panel.values)] >= 0).all() for panel in panels)
    axis = look.effect_axis(unit, height, 1.0 if shares else end, bool(beyond), one_sided=shares)
    fig.update_layout(coloraxis=axis)
    notes = SEPARATOR.join(filter(None, [subtitle, beyond]))
    margins = {"left": _LEFT, "right": _RIGHT, "below": below + 34, "above": 18 if titled else 0}
    return frame(fig, title, notes, theme=theme, height=height, **margins)


def _columns(panels: Sequence[Panel]) -> int:
    """Panels side by side: three at most, two of four, fewer where columns or titles would be too narrow."""
    n = len(panels)
    widest = max(panel.shape[1] for panel in panels) * _NARROW
    longest = max(len(panel.name) for panel in panels) * _LETTER
    most = max(1, int(_ROOM // max(widest, longest, 1)))
    return min(2 if n == 4 else 3, n, most)


def _height(n_layers: int, below: int, n_rows: int) -> tuple[int, float]:
    """Pixels of the plotting area, and the gap between rows as a share of it."""
    panel = min(max(n_layers * 30, 150), max(n_layers * 16, 480))
    gap = below + 34
    height = n_rows * panel + (n_rows - 1) * gap
    return height, gap / height if n_rows > 1 else 0.0


def _end(values: Sequence[np.ndarray], zmax: float | None) -> float:
    """The end of the colour scale."""
    if zmax is not None and not zmax > 0:
        raise ValueError(f"zmax is {zmax}; the end of the colour scale must be above 0.")
    return look.robust(np.concatenate([part.ravel() for part in values])) if zmax is None else float(zmax)


def _beyond(panels: Sequence[Panel], end: float) -> str:
    """Which cells are beyond the scale, the largest first."""
    cells = []
    for panel in panels:
        value = panel.cells.value
        outside = [index for index in every(value) if abs(float(value.values[index])) > end * (1 + 1e-6)]
        names = cell_names(value, panel.cells.attrs, outside)
        cells += [(float(value.values[index]), name) for index, name in zip(outside, names)]
    cells.sort(key=lambda cell: -abs(cell[0]))
    told = ", ".join(f"{name} {number(value)}" for value, name in cells[:_NAMED])
    more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
    return f"beyond the colours: {told}{more}" if cells else ""


def _x_axis(panel: Panel, pixels: int, titled: bool) -> dict:
    title = _AXIS.get(panel.x, panel.x) if titled else None
    return {"title_text": title, "range": [-0.5, panel.shape[1] - 0.5], **panel.ticks(pixels)}


def _y_axis(panel: Panel, titled: bool, numbered: bool) -> dict:
    """Layers, 0 on top; numbered in the first column only, unless the panels have other layers."""
    layers = panel.cells.value["layer"].values
    return {
        "title_text": "layer" if titled else None,
        "showticklabels": numbered,
        "ticks": "outside" if numbered else "",
        "range": [len(layers) - 0.5, -0.5],
        "tickmode": "array",
        "tickvals": list(range(len(layers))),
        "ticktext": [str(layer) for layer in layers],
    }


def _traces(panel: Panel, n_columns: int, end: float) -> list[go.Heatmap | go.Scatter]:
    """The effects of one panel, and hatching wherever there is none."""
    value, values = panel.cells.value, panel.values
    texts = np.array(hover(panel.cells, every(value)), dtype=object).reshape(value.shape)
    effects = go.Heatmap(
        z=values,
        hovertext=texts if value.dims[0] == "layer" else texts.T,
        hoverinfo="text",
        xgap=1,
        ygap=1,
        coloraxis="coloraxis",
        **_in_cells(values, n_columns, end),
    )
    empty = np.isnan(values)
    return [effects, _hatching(empty)] if empty.any() else [effects]


def _hatching(empty: np.ndarray) -> go.Scatter:
    """A hatched rectangle over each run of cells without a value."""
    x, y = [], []
    for row, cells in enumerate(empty):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        for start, stop in edges.reshape(-1, 2).tolist():
            left, right, up, down = start - 0.5, stop - 0.5, row - 0.5, row + 0.5
            x += [left, right, right, left, left, None]
            y += [up, up, down, down, up, None]
    pattern = {"shape": "/", "size": 6, "solidity": 0.25, "fgcolor": look.MUTED, "bgcolor": look.GRID}
    return go.Scatter(
        x=x, y=y, mode="lines", line={"width": 0}, fill="toself", fillcolor=look.GRID, fillpattern=pattern,
        hoverinfo="skip", showlegend=False, name="no value",
    )  # fmt: skip


def _in_cells(values: np.ndarray, n_columns: int, end: float) -> dict:
    """Numbers in the cells, where they fit: as many digits as the scale needs."""
    decimals = max(0, 2 - max(0, math.floor(math.log10(end) + 1e-9))) if end >= 0.1 else 3
    if values.shape[1] * n_columns * _NUMBERS > _ROOM or end < 0.005:
        return {}
    text = np.array([_digits(float(v), decimals) for v in values.ravel()], dtype=object)
    return {"text": text.reshape(values.shape), "texttemplate": "%{text}", "textfont": {"size": 11}}


def _digits(value: float, decimals: int) -> str:
    rounded = f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "−")
    return rounded if math.isfinite(value) else ""
