"""Agreement: an estimate against the exact effects, one point a cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import stats
from interp.plot import _theme as theme
from interp.plot._cells import Drawn, Index, cell_names, drawn, hover
from interp.plot._theme import escape, number

_WIDTH, _HEIGHT, _RIGHT = 620, 560, 32


@dataclass(frozen=True)
class _Points:
    """The live cells of both results: prompt means."""

    cells: Drawn  # of the exact result
    indices: list[Index]
    exact: np.ndarray
    estimate: np.ndarray

    def worst(self, count: int) -> np.ndarray:
        """The cells on which the estimate errs most, the largest error first."""
        return np.argsort(-np.abs(self.estimate - self.exact), kind="stable")[:count]


def agreement(
    estimate: xr.Dataset,
    exact: xr.Dataset,
    worst: int = 5,
    metric: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """A point for each live cell (not 0 in both): exact effect across, estimate up; on the line they agree.

    estimate, exact: results over the same cells and prompts. worst: how many of the cells with the largest
    error are named. metric: which, if the results have several. The subtitle holds the figures of
    `stats.agreement`; colours tell whether the sign agrees.

    Raises ValueError for results that cannot be compared.
    """
    if worst < 0:
        raise ValueError(f"worst is {worst}; it must be 0 or more.")
    points = _points(estimate, exact, metric)
    same = np.sign(points.estimate) == np.sign(points.exact)
    texts = [
        f"{text}<br>estimate {number(float(value))}"
        for text, value in zip(hover(points.cells, points.indices), points.estimate)
    ]
    dots = go.Scatter(
        x=points.exact,
        y=points.estimate,
        mode="markers",
        marker={
            "color": [theme.POSITIVE if agrees else theme.NEGATIVE for agrees in same],
            "size": 7,
            "opacity": 0.65,
            "line": {"width": 0},
        },
        hovertext=texts,
        hoverinfo="text",
        showlegend=False,
    )
    fig = go.Figure([_line(points), dots])
    _name_worst(fig, points, worst)
    method = str(estimate.attrs.get("method", "estimate"))
    _dress(
        fig, points, method, _figures(estimate, exact, metric), title or f"{method} against exact patching"
    )
    return fig


def _points(estimate: xr.Dataset, exact: xr.Dataset, metric: str | None) -> _Points:
    cells, other = drawn(exact, metric=metric), drawn(estimate, metric=metric)
    a, b = (part.value.values.astype(float) for part in (other, cells))
    if a.shape != b.shape:
        raise ValueError(f"the results have cells {a.shape} and {b.shape}. Use the same site and by=.")
    live = np.isfinite(a) & np.isfinite(b) & ((a != 0) | (b != 0))
    indices = list(zip(*(axis.tolist() for axis in np.nonzero(live))))
    return _Points(cells, indices, b[live], a[live])


def _figures(estimate: xr.Dataset, exact: xr.Dataset, metric: str | None) -> str:
    found = stats.agreement(estimate, exact)
    if "metric" in found.dims:
        found = found.sel(metric=metric)
    whole = found.sel(cells="all")
    parts = [f"{name} {float(whole[name]):.3f}" for name in ("pearson", "spearman", "slope")]
    parts.append(f"relative L1 {float(whole['relative_l1']):.3f}")
    parts.append(
        f"pearson without the largest cell {float(found['pearson'].sel(cells='without largest')):.3f}"
    )
    return " · ".join([*parts, f"{int(whole['n_cells'])} live cells"])


def _line(points: _Points) -> go.Scatter:
    """Where the estimate is exact."""
    both = np.concatenate([points.exact, points.estimate, [0.0]])
    ends = [float(both.min()), float(both.max())]
    line = {"color": theme.MUTED, "width": 1, "dash": "dot"}
    return go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _name_worst(fig: go.Figure, points: _Points, count: int) -> None:
    chosen = points.worst(count)
    names = cell_names(points.cells.value, points.cells.attrs, [points.indices[i] for i in chosen])
    middle = float(np.median(points.exact))
    for i, name in zip(chosen, names):
        left = points.exact[i] > middle  # a name on the outer side would leave the figure
        fig.add_annotation(
            x=points.exact[i],
            y=points.estimate[i],
            text=escape(name),
            showarrow=False,
            xanchor="right" if left else "left",
            xshift=-7 if left else 7,
            font={"size": 11, "color": theme.INK},
        )


def _dress(fig: go.Figure, points: _Points, method: str, figures: str, title: str) -> None:
    heading, above = theme.titles(title, f"{figures} · {points.cells.subtitle}", _WIDTH)
    fig.update_layout(
        template=theme.template(),
        title=heading,
        width=_WIDTH,
        height=above + _HEIGHT - 90,
        margin={"l": 76, "r": _RIGHT, "t": above, "b": 62},
    )
    grid = {"showgrid": True, "gridcolor": "#eceff3", "zeroline": True, "zerolinecolor": theme.LINES}
    unit = escape(points.cells.unit)
    fig.update_xaxes(title_text=f"exact effect ({unit})", **grid)
    fig.update_yaxes(title_text=f"{escape(method)} estimate ({unit})", **grid)
