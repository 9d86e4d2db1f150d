"""Bars: the cells with the largest effects, whatever the dims, with their intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._cells import Cells, Index, at, hover, is_significant, labels, require_dataset, top_cells
from interp.plot._frame import frame
from interp.plot._theme import escape

_BAR, _RIGHT = 24, 32  # pixels: of a bar, of the margin
_LONGEST_NAME = 40
_FULL = 0.75  # of the colour, so that the half of an interval that lies on the bar is seen
_PALE = 0.3


@verb
def bars(
    result: xr.Dataset,
    top: int = 15,
    normalise: bool = False,
    interval: float | xr.Dataset | None = 0.95,
    metric: str | None = None,
    title: str | None = None,
    *,
    theme: str = "auto",
) -> go.Figure:
    """The `top` cells by |effect|, the largest above; the error bars are intervals over prompts.

    A pale bar is not significant with all cells of the result allowed for (`stats.test`, max-|t|).

    Takes a result of any dims, readouts (`direct`, `relevance`) as well. The other arguments are those of
    `plot.heads`. One prompt has no interval. Raises ValueError for what is no result.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> shares = interp.attribution.direct(model, interp.tasks.ioi(model, n=4))
        >>> len(interp.plot.bars(shares, top=5).data[0].x)
        5
    """
    require_dataset(result, "bars")
    cells, indices = top_cells(result, top, normalise, interval, metric)
    value = at(cells.value, indices)
    names = [_short(name) for name in labels(cells, indices)]
    trace = go.Bar(
        x=value,
        y=np.arange(len(indices)),
        orientation="h",
        marker={
            "color": [look.POSITIVE if v > 0 else look.NEGATIVE for v in value],
            "opacity": [_PALE if is_significant(cells, index) is False else _FULL for index in indices],
            "line": {"width": 0},
        },
        error_x=_errors(cells, indices),
        hovertext=hover(cells, indices),
        hoverinfo="text",
        showlegend=False,
    )
    fig = go.Figure(trace)
    pale = any(is_significant(cells, index) is False for index in indices)
    kind = words.noun(result.attrs)
    heading = words.heading(result, f"{kind}s: the {len(indices)} largest")
    note = f" · pale: not significant with all {cells.family} cells allowed for" if pale else ""
    _label(fig, names, f"{kind} ({escape(cells.unit)})")
    return frame(
        fig,
        title or heading,
        cells.subtitle + note,
        theme=theme,
        height=max(90, _BAR * len(names)),
        left=28 + 7.2 * max(map(len, names), default=4),
        right=_RIGHT,
        below=62,
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _errors(cells: Cells, indices: list[Index]) -> dict | None:
    if cells.low is None or cells.high is None:
        return None
    value, low, high = (at(part, indices) for part in (cells.value, cells.low, cells.high))
    style = {"color": look.INK, "thickness": 1.4, "width": 4}
    return {"type": "data", "symmetric": False, "array": high - value, "arrayminus": value - low, **style}


def _label(fig: go.Figure, names: list[str], axis: str) -> None:
    fig.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[escape(name) for name in names],
        autorange="reversed",
    )
    grid = {"showgrid": True, "zeroline": True, "zerolinecolor": look.MUTED}
    fig.update_xaxes(title_text=axis, zerolinewidth=1, **grid)
    fig.update_layout(bargap=0.3)
