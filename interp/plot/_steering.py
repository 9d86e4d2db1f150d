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

from interp._verbs import verb
from interp.places import hint
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._cells import require_dataset
from interp.plot._frame import frame
from interp.plot._theme import escape, number
from interp.stats._means import MetricFacts, metric_facts

_LEFT, _RIGHT, _GAP, _BELOW = 64, 28, 72, 118


@verb
def steering(
    result: xr.Dataset, metric: str | None = None, title: str | None = None, *, theme: str = "auto"
) -> go.Figure:
    """Effect on a metric, KL and perplexity of neutral text, by layer and coefficient, side by side.

    result: of `steering.sweep`. metric: which effect to draw (default: the first that is not the KL),
    averaged over prompts, positive is better. The KL and the perplexity are drawn where they were measured.
    A heatmap for several layers; for one layer (`result.isel(layer=[2])`) lines with a band from the 10th to
    the 90th percentile of the prompts.

    Raises ValueError for another Dataset and for a metric that the sweep does not have.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-world")
        >>> up, down = ["Mary went", "Anna went"], ["John went", "Tom went"]
        >>> found = interp.steering.mean_difference(model, up, down, layer=2)
        >>> swept = interp.steering.sweep(model, found, ["The film was"], [0.0, 1.0], progress=False)
        >>> len(interp.plot.steering(swept).data) > 0
        True
    """
    require_dataset(result, "steering")
    result = result.sortby("coefficient") if "coefficient" in result.dims else result
    drawn = quantities(result, metric)
    by_layer = result.sizes["layer"] > 1
    gap = (36 if by_layer else _GAP) / (look.WIDTH - _LEFT - _RIGHT)
    titles = [f"<b>{escape(each.name)}</b>" for each in drawn]
    fig = make_subplots(1, len(drawn), subplot_titles=titles, horizontal_spacing=gap)
    for column, quantity in enumerate(drawn, 1):
        if by_layer:
            _map(fig, quantity, result, column)
        else:
            _lines(fig, quantity, column)
    return _dress(fig, result, title, by_layer, theme)


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
        end = look.symmetric(values)
        ends = {"colorscale": look.scale(look.DIVERGING), "cmin": -end, "cmax": end, "cmid": 0}
    else:
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        low = 0.0 if quantity.name == "KL" else low
        ends = {"colorscale": look.scale(look.SEQUENTIAL), "cmin": low, "cmax": max(high, low + 1e-6)}
    return {**ends, "colorbar": bar}


def _lines(fig: go.Figure, quantity: Quantity, column: int) -> None:
    for trace in traces(quantity, first=column == 1):
        fig.add_trace(trace, 1, column)
    grid = {"showgrid": True}
    fig.update_xaxes(title_text="coefficient", **grid, row=1, col=column)
    zero = {"zeroline": quantity.is_effect, "zerolinecolor": look.MUTED, "zerolinewidth": 1}
    fig.update_yaxes(title_text=escape(quantity.unit), title_standoff=4, **grid, **zero, row=1, col=column)


def _dress(fig: go.Figure, result: xr.Dataset, title: str | None, by_layer: bool, theme: str) -> go.Figure:
    fig.update_annotations(font_size=13, yshift=2)
    height = min(max(30 * result.sizes["layer"], 160), 520) if by_layer else 300
    place = "" if by_layer or "place" not in result.coords else f" at {result['place'].values[0]}"
    fig.update_layout(
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "top"},
        showlegend=not by_layer,
    )
    if not by_layer:
        fig.update_layout(legend_y=-64 / height)
    heading, notes = title or f"Steering{place}", _subtitle(result, by_layer)
    margins = {"left": _LEFT, "right": _RIGHT, "below": _BELOW, "above": 18}
    figure = frame(fig, heading, notes, theme=theme, height=height, **margins)
    return figure.update_layout(margin_autoexpand=False)


def _subtitle(result: xr.Dataset, by_layer: bool) -> str:
    low, high = (f"{100 * end:.0f}" for end in SPREAD)
    attrs = result.attrs
    parts = [str(attrs.get("direction_method", "")), words.subject(result), str(attrs.get("site", ""))]
    parts += [str(attrs.get("when", "")), words.prompts(result)]
    parts.append("means over prompts" if by_layer else f"band: {low}th to {high}th percentile of the prompts")
    return " · ".join(part for part in parts if part and part != "none")


_STYLES = {
    "steered": {"color": look.POSITIVE, "width": 2.5},
    "random": {"color": look.MUTED, "width": 1.6, "dash": "dash"},
    "shuffled": {"color": look.KEY, "width": 1.6, "dash": "dot"},
}
_NAMES = {"steered": "steered", "random": "random direction", "shuffled": "shuffled labels"}


def traces(quantity: Quantity, first: bool) -> list[go.Scatter]:
    """A band and a line for the steered runs, a line for each control; `first` has the legend's entries."""
    lines = [_band(quantity, first)]
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
        lines.append(line)
    return lines


def _band(quantity: Quantity, first: bool) -> go.Scatter:
    low, high = (end.isel(layer=0) for end in quantity.spread())
    x = low["coefficient"].values
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high.values, low.values[::-1]]),
        fill="toself",
        mode="lines",
        line={"width": 0, "color": look.POSITIVE},
        fillcolor=look.POSITIVE_BAND,
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
        values = self.values[run]
        return self.shown(values.mean(_prompt_dim(values))).transpose(*_DIMS)

    def spread(self, run: str = "steered") -> tuple[xr.DataArray, xr.DataArray]:
        """The quantiles `SPREAD` over prompts."""
        values = self.values[run]
        ends = self.shown(values.quantile(SPREAD, _prompt_dim(values)))
        return ends.isel(quantile=0), ends.isel(quantile=1)

    @property
    def axis(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def quantities(result: xr.Dataset, metric: str | None = None) -> list[Quantity]:
    """The effect on a metric; the KL from the unsteered run, and the perplexity of neutral text, if measured.

    metric: default the first that is not the KL. Raises ValueError for what is not the result of a sweep, and
    for a metric that it does not have.
    """
    facts = {each.name: each for each in _facts(result)}
    names = list(facts)
    if metric is not None and metric not in names:
        raise ValueError(
            f"the sweep has no metric {metric!r}{hint(metric, names)} It has {', '.join(names)}."
        )
    chosen = metric or next((name for name in names if name != "kl"), "kl")
    drawn = [] if chosen == "kl" else [_effect(result, facts[chosen])]
    if "kl" in names:
        drawn.append(Quantity("KL", "nats", False, _costs(result, facts["kl"]), _same))
    if "neutral_loss" in result:
        loss = {"steered": result["neutral_loss"]}
        drawn.append(Quantity("perplexity of neutral text", "", False, loss, np.exp))
    return drawn


def _facts(result: xr.Dataset) -> list[MetricFacts]:
    """The metrics of a sweep."""
    if result.attrs.get("method") != "sweep" or not {"value", "clean"} <= set(result.data_vars):
        raise ValueError(
            "this is not the result of steering.sweep: it has the variables "
            f"{', '.join(map(str, result.data_vars)) or 'none'}, method {result.attrs.get('method')!r}."
        )
    missing = [dim for dim in (*_DIMS, "prompt") if dim not in result["value"].dims]
    if missing:
        raise ValueError(
            f"the sweep has lost its dim {missing[0]!r}. Select with a list, as in isel({missing[0]}=[0])."
        )
    return metric_facts(result)


def _effect(result: xr.Dataset, facts: MetricFacts) -> Quantity:
    return Quantity(f"effect on {facts.name}", facts.unit, True, _runs(result, facts.name), _same)


def _costs(result: xr.Dataset, facts: MetricFacts) -> dict[str, xr.DataArray]:
    """The metric itself: its unsteered value plus the effect, with the sign that better has."""
    clean = _of(result["clean"], facts.name)
    return {run: clean + facts.sign * effect for run, effect in _runs(result, facts.name).items()}


def _runs(result: xr.Dataset, metric: str) -> dict[str, xr.DataArray]:
    names = {"steered": "value"} | {name: name for name in _CONTROLS if name in result}
    return {run: _of(result[name], metric) for run, name in names.items()}


def _of(values: xr.DataArray, metric: str) -> xr.DataArray:
    return values.sel(metric=metric, drop=True) if "metric" in values.dims else values


def _prompt_dim(values: xr.DataArray) -> str:
    return next(str(dim) for dim in values.dims if dim not in (*_DIMS, "quantile"))


def _same(values: xr.DataArray) -> xr.DataArray:
    return values
