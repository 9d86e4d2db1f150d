"""Reliability of probabilities: observed against predicted, with intervals, counts, and what chance gives."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot._frame import frame

_NEEDED = ("predicted", "value", "low", "high", "n", "band_low", "band_high", "ece", "ece_chance")
_COUNTS = 0.16  # of the height, for the counts below


@verb
def reliability(result: xr.Dataset, title: str | None = None, *, theme: str = "auto") -> go.Figure:
    """The share of positives (up) by what was predicted (across), with intervals, over what chance gives.

    result: of `probes.reliability`. The dashed diagonal is perfect calibration; the band is where the shares
    lie if the probabilities are right, at these counts; bars below say how many prompts a point has. Raises
    ValueError for another Dataset.

    Example:
        >>> found = interp.probes.reliability([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bins=2)
        >>> len(interp.plot.reliability(found).data)
        4
    """
    missing = [name for name in _NEEDED if name not in result]
    if missing:
        raise ValueError(f"this is not the result of probes.reliability: it lacks {', '.join(missing)}.")
    x, counts = result["predicted"].values, result["n"].values
    band, diagonal = _expected(result)
    points = _observed(result)
    below = go.Bar(
        x=x, y=counts, width=0.02, yaxis="y2", name="prompts", showlegend=False, hoverinfo="skip",
        marker={"color": look.NOTHING},
    )  # fmt: skip
    fig = go.Figure([band, diagonal, points, below])
    grid = {"showgrid": True}
    fig.update_xaxes(title_text="predicted probability", range=[-0.03, 1.03], anchor="y2", **grid)
    fig.update_layout(
        yaxis={"title": {"text": "share of positives"}, "domain": [_COUNTS + 0.06, 1],
               "range": [-0.03, 1.03], **grid},
        yaxis2={"domain": [0, _COUNTS], "title": {"text": "prompts"}, "nticks": 3, "rangemode": "tozero"},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        showlegend=True,
    )  # fmt: skip
    parts = [
        f"{int(counts.sum())} prompts in {len(counts)} bins of equal size",
        f"calibration error {float(result['ece']):.3f}, by chance alone {float(result['ece_chance']):.3f}",
        f"{100 * float(result.attrs['level']):.0f} % intervals",
    ]
    margins = {"left": 64, "right": 30, "below": 96}
    return frame(fig, title or "Reliability", " · ".join(parts), theme=theme, height=360, **margins)


def _expected(result: xr.Dataset) -> tuple[go.Scatter, go.Scatter]:
    """The band where the shares lie if the probabilities are right, and the diagonal."""
    x = result["predicted"].values
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([result["band_high"].values, result["band_low"].values[::-1]]),
        fill="toself", mode="lines", line={"width": 0, "color": look.MUTED}, fillcolor=look.BAND,
        name="if the probabilities are right", hoverinfo="skip",
    )  # fmt: skip
    diagonal = go.Scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="perfect", hoverinfo="skip",
        line={"color": look.MUTED, "width": 1, "dash": "dash"},
    )  # fmt: skip
    return band, diagonal


def _observed(result: xr.Dataset) -> go.Scatter:
    """The shares of positives with their intervals."""
    x, y, low, high = (result[name].values for name in ("predicted", "value", "low", "high"))
    counts = result["n"].values
    bars = {"array": high - y, "arrayminus": y - low, "symmetric": False, "thickness": 1, "width": 3}
    return go.Scatter(
        x=x, y=y, mode="lines+markers", name="observed", error_y={"type": "data", **bars},
        line={"color": look.POSITIVE, "width": 2}, marker={"size": 7, "color": look.POSITIVE},
        hoverinfo="text",
        hovertext=[
            f"predicted {p:.3f}<br>observed {o:.3f}<br>interval {a:.3f} to {b:.3f}<br>{n} prompts"
            for p, o, a, b, n in zip(x, y, low, high, counts)
        ],
    )  # fmt: skip
