"""The lines of one quantity at one layer: steered with the spread over prompts, and the controls."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from interp.plot import theme
from interp.plot.labels import escape, number
from interp.plot.steering_numbers import Quantity

_STYLES = {
    "steered": {"color": theme.POSITIVE, "width": 2.5},
    "random": {"color": theme.MUTED, "width": 1.6, "dash": "dash"},
    "shuffled": {"color": "#d9820b", "width": 1.6, "dash": "dot"},
}
_NAMES = {"steered": "steered", "random": "random direction", "shuffled": "shuffled labels"}


def traces(quantity: Quantity, first: bool) -> list[go.Scatter]:
    """A band and a line for the steered runs, a line for each control; `first` has the legend's entries."""
    made = [_band(quantity, first)]
    for run in quantity.values:
        mean = quantity.mean(run).isel(layer=0)
        unit = escape(quantity.unit)
        texts = [
            f"{_NAMES[run]}<br>coefficient {step:g}<br>{number(float(value))} {unit}"
            for step, value in zip(mean["coefficient"].values, mean.values)
        ]
        line = go.Scatter(
            x=mean["coefficient"].values,
            y=mean.values,
            mode="lines+markers",
            name=_NAMES[run],
            legendgroup=run,
            showlegend=first,
            line=_STYLES[run],
            marker={"size": 6 if run == "steered" else 4, "color": _STYLES[run]["color"]},
            hovertext=texts,
            hoverinfo="text",
        )
        made.append(line)
    return made


def _band(quantity: Quantity, first: bool) -> go.Scatter:
    low, high = (end.isel(layer=0) for end in quantity.spread())
    x = low["coefficient"].values
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high.values, low.values[::-1]]),
        fill="toself",
        mode="lines",
        line={"width": 0, "color": theme.POSITIVE},
        fillcolor="rgba(33,102,172,0.15)",
        name="spread over prompts",
        legendgroup="spread",
        showlegend=first,
        hoverinfo="skip",
    )
