"""Faithfulness by size of circuit, one line for each method, with a band of random circuits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import frame
from interp.plot._theme import escape
from interp.results import require_axes

_COLOURS = (look.POSITIVE, look.NEGATIVE, *look.CATEGORIES, look.MUTED, "#0b8a9e", "#a8611a")
_HEIGHT = 340  # pixels
_TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]  # % of edges
_NEEDED = ("faithfulness", "low", "high", "edges")


@verb
def curve(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    ranking: str = "absolute",
    random: xr.Dataset | None = None,
    metric: str | None = None,
    title: str | None = None,
    theme: str = "auto",
) -> go.Figure:
    """Faithfulness (up) of circuits by the share of edges that they keep (across, on a log scale).

    curves: of `circuits.curve`, one, or several by name. ranking: "absolute" or "signed". random: of
    `circuits.random_baseline`, drawn as a band between its lowest and highest quantile. metric: which, where
    there are several. Points stand at the true sizes; bars are bootstrap intervals. 1 is the whole model, 0
    every edge cut.

    Raises ValueError for another Dataset, and for curves of different tasks, ablations, metrics or models.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> scores = interp.circuits.score_edges(model, task, progress=False)
        >>> found = interp.circuits.curve(model, task, scores, sizes=[0.1, 1.0], progress=False)
        >>> interp.plot.curve(found).layout.title.text
        '<b>Faithfulness by size</b>'
    """
    named = {_name(curves): curves} if isinstance(curves, xr.Dataset) else dict(curves)
    _check(named, random, ranking)
    named = {name: words.one_metric(result, metric)[0] for name, result in named.items()}
    first = next(iter(named.values()))
    random = None if random is None else words.one_metric(random, metric)[0]
    fig = go.Figure([] if random is None else [_band(random, int(first.attrs["n_edges"]))])
    for i, (name, result) in enumerate(named.items()):
        fig.add_trace(_line(name, result.sel(ranking=ranking), _COLOURS[i % len(_COLOURS)]))
    notes = [words.subtitle(first, words.one_metric(first, metric)[1], None, _interval(first))]
    notes += [f"{_ablation(first)} ablation", f"ranked by {ranking} score"]
    more = 18 * ((len(named) + (random is not None) - 1) // 3)  # lines of the legend
    _label(fig)
    margins = {"left": 70, "right": 30, "below": 100 + more}
    heading = title or "Faithfulness by size"
    return frame(fig, heading, " · ".join(notes), theme=theme, height=_HEIGHT, **margins)


def _name(result: xr.Dataset) -> str:
    return str(result.attrs.get("scores", "scores"))


def _interval(result: xr.Dataset) -> dict[str, float]:
    """The level of the intervals; one prompt has none."""
    known = "level" in result.attrs and result.sizes.get("prompt") != 1
    return {"level": float(result.attrs["level"])} if known else {}


def _ablation(result: xr.Dataset) -> str:
    return str(result.attrs.get("ablation", "")).partition("(")[0]


def _check(named: Mapping[str, Any], random: xr.Dataset | None, ranking: str) -> None:
    if not named:
        raise ValueError("no curve given. Give the result of circuits.curve, or several by name.")
    for result in named.values():
        missing = [name for name in _NEEDED if name not in getattr(result, "data_vars", ())]
        if missing or "n_edges" not in result.attrs:
            raise ValueError(
                f"this is not the result of circuits.curve: it lacks {', '.join(missing) or 'n_edges'}. "
                "Give that, or several by name."
            )
        require_axes(result, "plot.curve", "ranking", "size")
        if ranking not in result["ranking"].values:
            known = ", ".join(map(str, result["ranking"].values))
            raise ValueError(f"ranking is {ranking!r}; the curve has {known}.")
    results = [*named.values(), *([] if random is None else [random])]
    for key in ("model", "task_fingerprint", "ablation", "metric", "direction"):
        values = {str(result.attrs.get(key)) for result in results}
        if len(values) > 1:
            raise ValueError(
                f"the curves differ in {key}: {', '.join(sorted(values))}. Compare like with like."
            )


def _line(name: str, result: xr.Dataset, colour: str) -> go.Scatter:
    there = result["edges"].values > 0  # a circuit without edges has no place on a log axis
    edges, y, low, high = (result[key].values[there] for key in ("edges", "faithfulness", "low", "high"))
    bars = {"array": high - y, "arrayminus": y - low, "symmetric": False, "thickness": 1, "width": 3}
    return go.Scatter(
        x=100 * edges / int(result.attrs["n_edges"]), y=y, mode="lines+markers", name=escape(name),
        error_y={"type": "data", **bars}, line={"color": colour, "width": 2},
        marker={"size": 6, "color": colour}, hoverinfo="text",
        hovertext=[
            f"{escape(name)}<br>{n} edges<br>faithfulness {v:.3f}<br>interval {a:.3f} to {b:.3f}"
            for n, v, a, b in zip(edges, y, low, high)
        ],
    )  # fmt: skip


def _band(random: xr.Dataset, n_edges: int) -> go.Scatter:
    """Between the lowest and the highest quantile of circuits drawn at random."""
    share = 100 * random["edges"].mean("draw").values / n_edges
    order = np.argsort(share)
    (level,) = (dim for dim in random["quantile"].dims if dim != "size")
    low, high = (random["quantile"].isel({level: i}).values for i in (0, -1))
    ends = [f"{100 * float(end):.0f} %" for end in random[level].values[[0, -1]]]
    return go.Scatter(
        x=np.concatenate([share[order], share[order][::-1]]),
        y=np.concatenate([high[order], low[order][::-1]]),
        fill="toself",
        mode="lines",
        line={"width": 0.5, "color": look.MUTED},
        fillcolor=look.BAND,
        name=f"random circuits ({escape(str(random.attrs['kind']))}), {ends[0]} to {ends[1]}",
        hoverinfo="skip",
    )


def _label(fig: go.Figure) -> None:
    fig.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        showlegend=True,
    )
    across = "edges kept (% of all, log scale)"
    fig.update_xaxes(type="log", title_text=across, tickvals=_TICKS, showgrid=True)
    fig.update_yaxes(title_text="faithfulness", zeroline=True, showgrid=True)
    fig.add_hline(y=1, line={"color": look.MUTED, "width": 1, "dash": "dot"})
