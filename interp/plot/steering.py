"""A sweep of steering: what it does beside what it costs.

Several layers give heatmaps, layer × coefficient; one layer gives lines, with the spread over prompts and the
controls (a random direction, and that of shuffled labels, of equal norm).
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.plot import theme
from interp.plot.labels import escape, number
from interp.plot.steering_lines import traces
from interp.plot.steering_numbers import SPREAD, Quantity, quantities

_LEFT, _RIGHT, _GAP, _BELOW = 64, 28, 72, 118
_CELL, _NARROWEST, _WIDEST, _PAGE = 44, 250, 460, 1130  # pixels: a column of a heatmap, a panel, a page


def steering(result: xr.Dataset, metric: str | None = None, title: str | None = None) -> go.Figure:
    """Effect on a metric, KL and perplexity of neutral text, by layer and coefficient, side by side.

    result: of `steering.sweep`. metric: which effect to draw (default: the first that is not the KL); it is
    metric − base, averaged over prompts, positive is better. The KL and the perplexity are drawn where the
    sweep has measured them. A heatmap for several layers; for one layer (`result.isel(layer=[2])`) lines with
    a band from the 10th to the 90th percentile of the prompts.

    Raises ValueError for another Dataset and for a metric that the sweep does not have.
    """
    result = result.sortby("coefficient") if "coefficient" in result.dims else result
    found = quantities(result, metric)
    by_layer = result.sizes["layer"] > 1
    width, height, gap = _size(result, len(found), by_layer)
    fig = make_subplots(
        1,
        len(found),
        subplot_titles=[f"<b>{escape(each.name)}</b>" for each in found],
        horizontal_spacing=gap,
    )
    for column, quantity in enumerate(found, 1):
        if by_layer:
            _map(fig, quantity, result, column)
        else:
            _lines(fig, quantity, column)
    _dress(fig, result, title, width, height, by_layer)
    return fig


def _map(fig: go.Figure, quantity: Quantity, result: xr.Dataset, column: int) -> None:
    mean = quantity.mean()
    axis = f"coloraxis{column if column > 1 else ''}"
    trace = go.Heatmap(
        z=mean.values,
        x=np.arange(mean.sizes["coefficient"]),
        y=mean["layer"].values,
        hovertext=_hover(quantity, result),
        hoverinfo="text",
        hoverongaps=False,
        coloraxis=axis,
        xgap=1,
        ygap=1,
    )
    fig.add_trace(trace, 1, column)
    fig.update_layout({axis: _colours(fig, quantity, mean.values, column)})
    steps = [f"{step:g}".replace("-", "−") for step in mean["coefficient"].values]
    ticks = {"tickmode": "array", "tickvals": list(range(len(steps))), "ticktext": steps, "tickangle": 0}
    fig.update_xaxes(title_text="coefficient", **ticks, row=1, col=column)
    layers = mean["layer"].values.tolist()
    fig.update_yaxes(
        title_text="layer" if column == 1 else None,
        showticklabels=column == 1,
        ticks="outside" if column == 1 else "",
        autorange="reversed",
        tickmode="array",
        tickvals=layers if len(layers) <= 16 else layers[:: len(layers) // 8],
        row=1,
        col=column,
    )


def _hover(quantity: Quantity, result: xr.Dataset) -> np.ndarray:
    means = {run: quantity.mean(run).values for run in quantity.values}
    layers, steps = result["layer"].values, result["coefficient"].values
    norms = result["in_norms"].values if "in_norms" in result.coords else None
    texts = np.empty((len(layers), len(steps)), dtype=object)
    for i, j in np.ndindex(*texts.shape):
        lines = [f"<b>layer {layers[i]}, coefficient {steps[j]:g}</b>"]
        lines += [] if norms is None or np.isnan(norms[i, j]) else [f"{norms[i, j]:.2g} median norms"]
        lines += [
            f"{run}: {number(float(mean[i, j]))} {escape(quantity.unit)}" for run, mean in means.items()
        ]
        texts[i, j] = "<br>".join(lines)
    return texts


def _colours(fig: go.Figure, quantity: Quantity, values: np.ndarray, column: int) -> dict:
    """The colour axis of a panel, its bar lying below the panel."""
    left, right = next(fig.select_xaxes(col=column)).domain
    bar = {
        "orientation": "h", "x": (left + right) / 2, "xanchor": "center", "y": 0, "yanchor": "top",
        "ypad": 58, "len": right - left, "thickness": 12, "outlinewidth": 0, "tickfont": {"size": 11},
        "title": {"text": escape(quantity.axis), "side": "bottom", "font": {"size": 12}},
    }  # fmt: skip
    if quantity.is_effect:
        end = theme.symmetric(values)
        ends = {"colorscale": theme.scale(theme.DIVERGING), "cmin": -end, "cmax": end, "cmid": 0}
    else:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        low = 0.0 if quantity.name == "KL" else low
        ends = {"colorscale": theme.scale(theme.SEQUENTIAL), "cmin": low, "cmax": max(high, low + 1e-6)}
    return {**ends, "colorbar": bar}


def _lines(fig: go.Figure, quantity: Quantity, column: int) -> None:
    for trace in traces(quantity, first=column == 1):
        fig.add_trace(trace, 1, column)
    grid = {"showgrid": True, "gridcolor": "#eceff3"}
    fig.update_xaxes(title_text="coefficient", **grid, row=1, col=column)
    zero = {"zeroline": quantity.is_effect, "zerolinecolor": theme.MUTED, "zerolinewidth": 1}
    fig.update_yaxes(title_text=escape(quantity.unit), title_standoff=4, **grid, **zero, row=1, col=column)


def _size(result: xr.Dataset, n: int, by_layer: bool) -> tuple[int, int, float]:
    """Width and height of the plotting area in pixels, and the gap between panels as a share of the width."""
    gap = 36 if by_layer else _GAP
    most = min(_WIDEST, (_PAGE - _LEFT - _RIGHT - (n - 1) * gap) // n)
    one = min(max(_CELL * result.sizes["coefficient"], _NARROWEST), most) if by_layer else min(330, most)
    width = n * one + (n - 1) * gap
    height = min(max(30 * result.sizes["layer"], 160), 520) if by_layer else 300
    return width, height, gap / width


def _dress(
    fig: go.Figure, result: xr.Dataset, title: str | None, width: int, height: int, by_layer: bool
) -> None:
    fig.update_annotations(font_size=13, yshift=2)
    whole = max(width + _LEFT + _RIGHT, 420)
    place = "" if by_layer else f" at {result['place'].values[0]}"
    heading, above = theme.titles(title or f"Steering{place}", _subtitle(result, by_layer), whole)
    fig.update_layout(
        template=theme.template(),
        title=heading,
        width=whole,
        height=above + 18 + height + _BELOW,
        margin={"l": _LEFT, "r": _RIGHT, "t": above + 18, "b": _BELOW, "autoexpand": False},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top"},
        showlegend=not by_layer,
    )
    if not by_layer:
        fig.update_layout(legend_y=-64 / height)


def _subtitle(result: xr.Dataset, by_layer: bool) -> str:
    low, high = (f"{100 * end:.0f}" for end in SPREAD)
    parts = [str(result.attrs.get("model", "")), str(result.attrs.get("direction_method", ""))]
    parts += [str(result.attrs.get("site", "")), str(result.attrs.get("when", ""))]
    parts.append(f"{result.sizes['prompt']} prompts")
    parts.append("means over prompts" if by_layer else f"band: {low}th to {high}th percentile of the prompts")
    return " · ".join(part for part in parts if part)
