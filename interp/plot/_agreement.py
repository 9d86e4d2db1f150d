"""Agreement: an estimate against the exact effects, one point a cell."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import stats
from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._cells import Cells, Index, cell_names, cells_of, hover, require_dataset
from interp.plot._frame import frame
from interp.plot._theme import escape, number

_HEIGHT, _RIGHT = 410, 32  # pixels


@dataclass(frozen=True)
class _Points:
    """The live cells of both results: prompt means."""

    cells: Cells  # of the exact result
    indices: list[Index]
    exact: np.ndarray
    estimate: np.ndarray

    def worst(self, count: int) -> np.ndarray:
        """The cells on which the estimate errs most, the largest error first."""
        return np.argsort(-np.abs(self.estimate - self.exact), kind="stable")[:count]

    def near(self, a: tuple[float, float], b: tuple[float, float]) -> bool:
        """Whether names beside two points would lie on each other; both axes go over all numbers."""
        both = np.concatenate([self.exact, self.estimate, [0.0]])
        span = float(both.max() - both.min())
        return abs(a[0] - b[0]) < 0.09 * span and abs(a[1] - b[1]) < 0.045 * span


@verb
def agreement(
    estimate: xr.Dataset,
    exact: xr.Dataset,
    worst: int = 5,
    metric: str | None = None,
    title: str | None = None,
    *,
    theme: str = "auto",
) -> go.Figure:
    """A point for each live cell (not 0 in both): exact effect across, estimate up; on the line they agree.

    estimate, exact: results over the same cells and prompts. worst: how many of the cells with the largest
    error are named; of names that would lie on each other the first is drawn. metric: which, if the results
    have several. The subtitle holds the figures of `stats.agreement`, and says where the exact effects are
    too small for them; colours tell whether the sign agrees.

    Raises ValueError for results that cannot be compared.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> exact = interp.patch(model, task, "z", progress=False)
        >>> estimate = interp.attribute(model, task, "z", method="relp", progress=False)
        >>> interp.plot.agreement(estimate, exact).layout.title.text
        '<b>RelP estimate against exact patching</b>'
    """
    for result in (estimate, exact):
        require_dataset(result, "agreement")
    if worst < 0:
        raise ValueError(f"worst is {worst}; it must be 0 or more.")
    points = _points(estimate, exact, metric)
    fig = go.Figure([_line(points), _dots(points)])
    _name_worst(fig, points, worst)
    names = [words.method(estimate) or "estimate", words.method(exact) or "exact"]
    return _dress(
        fig,
        points,
        names,
        _figures(estimate, exact, metric),
        title or f"{names[0]} against {names[1]}",
        theme,
    )


def _points(estimate: xr.Dataset, exact: xr.Dataset, metric: str | None) -> _Points:
    cells, other = cells_of(exact, metric=metric), cells_of(estimate, metric=metric)
    a, b = (part.value.values.astype(float) for part in (other, cells))
    if a.shape != b.shape:
        raise ValueError(f"the results have cells {a.shape} and {b.shape}. Use the same site and by=.")
    live = np.isfinite(a) & np.isfinite(b) & ((a != 0) | (b != 0))
    indices = list(zip(*(axis.tolist() for axis in np.nonzero(live))))
    return _Points(cells, indices, b[live], a[live])


def _figures(estimate: xr.Dataset, exact: xr.Dataset, metric: str | None) -> str:
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        figures = stats.agreement(estimate, exact)
    if "metric" in figures.dims:
        figures = figures.sel(metric=metric)
    whole, rest = figures.sel(cells="all"), figures.sel(cells="without largest")
    parts = [f"{name} {float(whole[name]):.3f}" for name in ("pearson", "spearman", "slope")]
    parts.append(f"relative L1 {float(whole['relative_l1']):.3f}")
    parts.append(f"pearson without the largest cell {float(rest['pearson']):.3f}")
    text = " · ".join([*parts, f"{int(whole['n_cells'])} live cells"])
    if any(issubclass(warning.category, stats.NearlyNoEffect) for warning in raised):
        return f"THE EXACT EFFECTS ARE NEARLY 0, so these figures mean nothing: {text}"
    return text


def _line(points: _Points) -> go.Scatter:
    """Where the estimate is exact."""
    both = np.concatenate([points.exact, points.estimate, [0.0]])
    ends = [float(both.min()), float(both.max())]
    line = {"color": look.MUTED, "width": 1, "dash": "dot"}
    return go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _dots(points: _Points) -> go.Scatter:
    same = np.sign(points.estimate) == np.sign(points.exact)
    texts = [
        f"{text}<br>estimate {number(float(value))}"
        for text, value in zip(hover(points.cells, points.indices), points.estimate)
    ]
    colours = [look.POSITIVE if agrees else look.NEGATIVE for agrees in same]
    return go.Scatter(
        x=points.exact,
        y=points.estimate,
        mode="markers",
        marker={"color": colours, "size": 7, "opacity": 0.65, "line": {"width": 0}},
        hovertext=texts,
        hoverinfo="text",
        showlegend=False,
    )


def _name_worst(fig: go.Figure, points: _Points, count: int) -> None:
    chosen = points.worst(count)
    names = cell_names(points.cells.value, points.cells.attrs, [points.indices[i] for i in chosen])
    middle = float(np.median(points.exact))
    named: list[tuple[float, float]] = []
    for i, name in zip(chosen, names):
        spot = (float(points.exact[i]), float(points.estimate[i]))
        if any(points.near(spot, other) for other in named):
            continue  # the hover has its name; one on the other could not be read
        named.append(spot)
        left = points.exact[i] > middle  # a name on the outer side would leave the figure
        fig.add_annotation(
            x=points.exact[i],
            y=points.estimate[i],
            text=escape(name),
            showarrow=False,
            xanchor="right" if left else "left",
            xshift=-7 if left else 7,
            font={"size": 11},
        )


def _dress(
    fig: go.Figure, points: _Points, names: list[str], figures: str, title: str, theme: str
) -> go.Figure:
    grid = {"showgrid": True, "zeroline": True}
    unit = escape(points.cells.unit)
    fig.update_xaxes(title_text=f"{escape(names[1])} ({unit})", **grid)
    fig.update_yaxes(title_text=f"{escape(names[0])} ({unit})", **grid)
    about = points.cells.subtitle.removeprefix(f"{names[1]} · ")
    margins = {"left": 76, "right": _RIGHT, "below": 62}
    return frame(fig, title, f"{figures} · {about}", theme=theme, height=_HEIGHT, **margins)
