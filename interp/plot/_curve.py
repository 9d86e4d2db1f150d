"""Faithfulness by size of circuit, one line for each method, with a band of random circuits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.plot import _theme as theme
from interp.plot._theme import escape

_COLOURS = ("#2166ac", "#b2182b", "#1b7f4d", "#d9820b", "#7b3294", "#5f6b7a", "#0b8a9e", "#8c510a")
_WIDTH, _HEIGHT = 720, 440


def curve(
    curves: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    ranking: str = "absolute",
    random: xr.Dataset | None = None,
    title: str | None = None,
) -> go.Figure:
    """Faithfulness (up) of circuits by the share of edges that they keep (across, on a log scale).

    curves: of `circuits.curve`, one, or several by name. ranking: "absolute" or "signed". random: of
    `circuits.random_baseline`, drawn as a band between its lowest and highest quantile. Points stand at the
    true sizes; bars are bootstrap intervals. 1 is the whole model, 0 every edge cut.

    Raises ValueError for curves of different tasks, ablations, metrics or models.
    """
    named = (
        {str(curves.attrs.get("scores", "scores")): curves}
        if isinstance(curves, xr.Dataset)
        else dict(curves)
    )
    if not named:
        raise ValueError("no curve given. Give the result of circuits.curve, or several by name.")
    _check(named, random)
    fig = go.Figure([] if random is None else _band(random, next(iter(named.values()))))
    for i, (name, found) in enumerate(named.items()):
        fig.add_trace(
            _line(name, found.sel(ranking=ranking), int(found.attrs["n_edges"]), _COLOURS[i % len(_COLOURS)])
        )
    attrs = next(iter(named.values())).attrs
    notes = f"{attrs['task']} · {attrs['metric']} · {attrs['ablation']} ablation · ranked by {ranking} score"
    _dress(fig, title or "Faithfulness by size", notes, len(named) + (random is not None))
    return fig


def _line(name: str, found: xr.Dataset, n_edges: int, colour: str) -> go.Scatter:
    there = found["edges"].values > 0
    y = found["faithfulness"].values[there]
    low, high = found["low"].values[there], found["high"].values[there]
    edges = found["edges"].values[there]
    bars = {
        "type": "data",
        "symmetric": False,
        "array": high - y,
        "arrayminus": y - low,
        "thickness": 1,
        "width": 3,
    }
    return go.Scatter(
        x=100 * edges / n_edges, y=y, mode="lines+markers", name=escape(name), error_y=bars,
        line={"color": colour, "width": 2}, marker={"size": 6, "color": colour},
        hovertext=[f"{escape(name)}<br>{n} edges<br>faithfulness {v:.3f}" for n, v in zip(edges, y)],
        hoverinfo="text",
    )  # fmt: skip


def _band(random: xr.Dataset, found: xr.Dataset) -> list[go.Scatter]:
    share = 100 * random["edges"].mean("draw").values / int(found.attrs["n_edges"])
    order = np.argsort(share)
    low, high = random["quantile"].isel(level=0).values, random["quantile"].isel(level=-1).values
    ends = [f"{100 * float(level):.0f} %" for level in random["level"].values[[0, -1]]]
    x = np.concatenate([share[order], share[order][::-1]])
    y = np.concatenate([high[order], low[order][::-1]])
    text = f"random circuits ({escape(str(random.attrs['kind']))}), {ends[0]} to {ends[1]}"
    return [
        go.Scatter(
            x=x,
            y=y,
            fill="toself",
            mode="lines",
            line={"width": 0.5, "color": theme.MUTED},
            fillcolor="rgba(95,107,122,0.18)",
            name=text,
            hoverinfo="skip",
        )
    ]


def _check(named: Mapping[str, xr.Dataset], random: xr.Dataset | None) -> None:
    results = [*named.values(), *([] if random is None else [random])]
    for key in ("model", "task_fingerprint", "ablation", "metric", "direction"):
        values = {str(found.attrs.get(key)) for found in results}
        if len(values) > 1:
            raise ValueError(
                f"the curves differ in {key}: {', '.join(sorted(values))}. Compare like with like."
            )


def _dress(fig: go.Figure, title: str, notes: str, entries: int) -> None:
    heading, above = theme.titles(title, notes, _WIDTH)
    fig.update_layout(
        template=theme.template(),
        title=heading,
        width=_WIDTH,
        height=above + _HEIGHT + 18 * ((entries - 1) // 3),
        margin={"l": 70, "r": 30, "t": above, "b": 100 + 18 * ((entries - 1) // 3)},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        showlegend=True,
    )
    grid = {"showgrid": True, "gridcolor": "#eceff3"}
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    fig.update_xaxes(type="log", title_text="edges kept (% of all, log scale)", tickvals=ticks, **grid)
    fig.update_yaxes(title_text="faithfulness", zeroline=True, zerolinecolor=theme.LINES, **grid)
    fig.add_hline(y=1, line={"color": theme.MUTED, "width": 1, "dash": "dot"})
