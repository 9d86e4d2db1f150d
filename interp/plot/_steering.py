"""A sweep of steering: what it does beside what it costs.

Several layers give heatmaps, layer × coefficient; one layer gives lines, with the spread over prompts and the
controls (a random direction, and that of shuffled labels, of equal norm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp.places import hint
from interp.plot import _theme as theme
from interp.plot._theme import escape, number

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


SPREAD = (0.1, 0.9)  # quantiles over prompts
_CONTROLS = ("random", "shuffled")
_DIMS = ("layer", "coefficient")


@dataclass(frozen=True)
class Quantity:
    """One quantity of a sweep, by layer, coefficient and prompt, and that of the controls."""

    name: str
    unit: str
    is_effect: bool  # centred on 0, positive is better; otherwise a cost
    values: dict[str, xr.DataArray]  # "steered", "random", "shuffled"
    shown: Callable[[xr.DataArray], xr.DataArray]

    def mean(self, run: str = "steered") -> xr.DataArray:
        """Mean over prompts, (layer, coefficient)."""
        found = self.values[run]
        return self.shown(found.mean(_prompt_dim(found))).transpose(*_DIMS)

    def spread(self, run: str = "steered") -> tuple[xr.DataArray, xr.DataArray]:
        """The quantiles `SPREAD` over prompts."""
        found = self.values[run]
        ends = self.shown(found.quantile(SPREAD, _prompt_dim(found)))
        return ends.isel(quantile=0), ends.isel(quantile=1)

    @property
    def axis(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def quantities(result: xr.Dataset, metric: str | None = None) -> list[Quantity]:
    """The effect on a metric; the KL from the unsteered run, and the perplexity of neutral text, if measured.

    metric: default the first that is not the KL. The effect is metric − base, positive is better. Raises
    ValueError for what is not the result of a sweep, and for a metric that it does not have.
    """
    facts = _facts(result)
    names = list(facts)
    if metric is not None and metric not in names:
        raise ValueError(
            f"the sweep has no metric {metric!r}{hint(metric, names)} It has {', '.join(names)}."
        )
    chosen = metric or next((name for name in names if name != "kl"), "kl")
    found = [_effect(result, chosen, *facts[chosen])]
    if "kl" in names and chosen != "kl":
        found.append(Quantity("KL", "nats", False, _runs(result, "kl"), _same))
    if "neutral_loss" in result:
        loss = {"steered": result["neutral_loss"]}
        found.append(Quantity("perplexity of neutral text", "", False, loss, np.exp))
    return found


def _facts(result: xr.Dataset) -> dict[str, tuple[str, str]]:
    """Unit, and whether higher or lower is better, by metric."""
    if result.attrs.get("method") != "sweep" or not {"value", "base"} <= set(result.data_vars):
        raise ValueError(
            "this is not the result of steering.sweep: it has the variables "
            f"{', '.join(map(str, result.data_vars)) or 'none'}, method {result.attrs.get('method')!r}."
        )
    missing = [dim for dim in (*_DIMS, "prompt") if dim not in result["value"].dims]
    if missing:
        raise ValueError(
            f"the sweep has lost its dim {missing[0]!r}. Select with a list, as in isel({missing[0]}=[0])."
        )
    lists = ([part.strip() for part in result.attrs[key].split(",")] for key in ("metric", "unit", "better"))
    return {name: (unit, better) for name, unit, better in zip(*lists)}


def _effect(result: xr.Dataset, metric: str, unit: str, better: str) -> Quantity:
    if metric == "kl":
        return Quantity("KL", unit, False, _runs(result, "kl"), _same)
    base = _of(result["base"], metric)
    sign = 1.0 if better == "higher" else -1.0
    runs = {run: sign * (values - base) for run, values in _runs(result, metric).items()}
    return Quantity(f"effect on {metric}", unit, True, runs, _same)


def _runs(result: xr.Dataset, metric: str) -> dict[str, xr.DataArray]:
    names = {"steered": "value"} | {name: name for name in _CONTROLS if name in result}
    return {run: _of(result[name], metric) for run, name in names.items()}


def _of(values: xr.DataArray, metric: str) -> xr.DataArray:
    return values.sel(metric=metric, drop=True) if "metric" in values.dims else values


def _prompt_dim(values: xr.DataArray) -> str:
    return next(str(dim) for dim in values.dims if dim not in (*_DIMS, "quantile"))


def _same(values: xr.DataArray) -> xr.DataArray:
    return values
