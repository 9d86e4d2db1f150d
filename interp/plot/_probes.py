"""Accuracy of probes: by layer as a line, by layer and head as a heatmap, each beside the shuffled labels."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import frame
from interp.plot._theme import escape

_LEFT, _RIGHT, _GAP, _BELOW = 64, 100, 28, 58
_ENDS = (0.05, 0.95)  # quantiles over the draws of the control
_NEEDED = ("accuracy", "control")


@verb
def probes(result: xr.Dataset, title: str | None = None, *, theme: str = "auto") -> go.Figure:
    """Held-out accuracy of each probe, and of probes on shuffled labels.

    result: of `probes.fit`. By layer: a line, and the control's mean with a band from its 5th to its 95th
    percentile. By layer and head: two heatmaps on one scale, the right one the control's 95th percentile; a
    head counts as found where the left is above the right. Raises ValueError for another Dataset.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-world")
        >>> nouns = ("film", "song", "cast", "story")
        >>> up, down = ([f"The {noun} was {word}" for noun in nouns] for word in ("great", "bad"))
        >>> found, _ = interp.probes.fit(model, up, down, progress=False)
        >>> len(interp.plot.probes(found).data)
        3
    """
    missing = [name for name in _NEEDED if name not in result]
    if missing or "layer" not in result["accuracy"].dims:
        raise ValueError(
            f"this is not the result of probes.fit: it lacks {', '.join(missing) or 'the dim layer'}. It has "
            f"{', '.join(map(str, result.data_vars)) or 'no variables'}."
        )
    by_head = "head" in result["accuracy"].dims
    heading = title or f"Probe of each {'head' if by_head else 'layer'} ({result.attrs.get('site', '')})"
    return _heads(result, heading, theme) if by_head else _layers(result, heading, theme)


def _layers(result: xr.Dataset, title: str, theme: str) -> go.Figure:
    x, accuracy = result["layer"].values, result["accuracy"].values
    low, high = (result["control"].quantile(end, "draw").values for end in _ENDS)
    middle = result["control"].mean("draw").values
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        mode="lines",
        line={"width": 0, "color": look.MUTED},
        fillcolor=look.BAND,
        name=f"shuffled labels, {100 * _ENDS[0]:.0f} % to {100 * _ENDS[1]:.0f} %",
        hoverinfo="skip",
    )
    control = _line(x, middle, "shuffled labels, mean", look.MUTED, "dash")
    fig = go.Figure([band, control, _line(x, accuracy, "probe", look.POSITIVE, "solid")])
    fig.update_layout(
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        showlegend=True,
    )
    grid = {"showgrid": True}
    fig.update_xaxes(title_text="layer", dtick=max(1, len(x) // 16), **grid)
    least = min(0.4, float(np.nanmin([accuracy.min(), low.min()])) - 0.03)
    fig.update_yaxes(title_text="accuracy on held-out prompts", range=[least, 1.03], **grid)
    fig.add_hline(y=0.5, line={"color": look.MUTED, "width": 1, "dash": "dot"})
    margins = {"left": _LEFT, "right": 30, "below": 96}
    return frame(fig, title, _subtitle(result), theme=theme, height=324, **margins)


def _line(x: np.ndarray, y: np.ndarray, name: str, colour: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, mode="lines+markers", name=name, line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7, "color": colour}, hoverinfo="text",
        hovertext=[f"{name}<br>layer {layer}<br>accuracy {value:.3f}" for layer, value in zip(x, y)],
    )  # fmt: skip


def _heads(result: xr.Dataset, title: str, theme: str) -> go.Figure:
    high = result["control"].quantile(_ENDS[1], "draw", keep_attrs=True)
    n_layers, n_heads = result.sizes["layer"], result.sizes["head"]
    height = min(max(30 * n_layers, 150), max(16 * n_layers, 480))
    names = ["probe", f"shuffled labels, {100 * _ENDS[1]:.0f} %"]
    fig = make_subplots(
        1, 2, subplot_titles=[f"<b>{name}</b>" for name in names], horizontal_spacing=_GAP / look.WIDTH
    )
    for column, values in enumerate((result["accuracy"], high), 1):
        fig.add_trace(_map(values.transpose("layer", "head"), result, names[column - 1]), 1, column)
        fig.update_xaxes(title_text="head", dtick=max(1, n_heads // 12), tickangle=0, row=1, col=column)
        first = column == 1
        fig.update_yaxes(
            title_text="layer" if first else None, showticklabels=first, autorange="reversed",
            ticks="outside" if first else "",
            dtick=max(1, n_layers // 16), row=1, col=column,
        )  # fmt: skip
    fig.update_annotations(font_size=13, yshift=2)
    bar = {
        "title": {"text": "accuracy<br> ", "font": {"size": 12}}, "thickness": 14, "outlinewidth": 0,
        "tickformat": ".1f", "dtick": 0.1, "tickfont": {"size": 11}, "lenmode": "pixels", "len": height + 40,
        "xpad": 16,
    }  # fmt: skip
    fig.update_layout(
        coloraxis={"colorscale": look.scale(look.SEQUENTIAL), "cmin": 0.5, "cmax": 1.0, "colorbar": bar}
    )
    margins = {"left": _LEFT, "right": _RIGHT, "below": _BELOW, "above": 18}
    return frame(fig, title, _subtitle(result), theme=theme, height=height, **margins)


def _map(values: xr.DataArray, result: xr.Dataset, name: str) -> go.Heatmap:
    p = result["p_value"].transpose("layer", "head").values if "p_value" in result else None
    texts = np.empty(values.shape, dtype=object)
    for i, j in np.ndindex(*values.shape):
        where = f"L{values['layer'].values[i]}H{values['head'].values[j]}"
        lines = [f"<b>{where}</b>", f"{escape(name)}: accuracy {values.values[i, j]:.3f}"]
        lines += [] if p is None else [f"p {p[i, j]:.3f} against shuffled labels"]
        texts[i, j] = "<br>".join(lines)
    return go.Heatmap(
        z=values.values, x=values["head"].values, y=values["layer"].values, hovertext=texts, hoverinfo="text",
        coloraxis="coloraxis", xgap=1, ygap=1,
    )  # fmt: skip


def _subtitle(result: xr.Dataset) -> str:
    attrs = result.attrs
    parts = ["linear probes", words.subject(result), str(attrs.get("reads", ""))]
    if "n_train" in attrs:
        parts.append(f"trained on {attrs['n_train']} prompts, tested on {attrs['n_held_out']} others")
    parts.append(f"{result.sizes['draw']} shuffles of the labels")
    return " · ".join(part for part in parts if part)
