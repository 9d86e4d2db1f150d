"""Subspaces: where a variable is, beside controls; one search with its losses, and the prompts in it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import SEPARATOR, frame
from interp.plot._theme import escape

_LEFT, _RIGHT, _GAP, _BELOW = 64, 100, 28, 58
_PANELS = {"raw": "subspace", "control": "best null", "whole": "whole site"}
_NULLS = ("random", "norm_matched", "shuffled", "random_model")
_NAMES = {"none": "no exchange", "whole": "whole site"}
_FEW = 8  # values of a variable with a colour each in the legend
_COLOURS = (look.POSITIVE, look.NEGATIVE, *look.CATEGORIES, look.PLAIN, "#0b8a9e", "#a8611a")
_BARS, _PROMPTS, _BETWEEN = 230, 330, 96  # pixels


class Search(Protocol):
    """What `subspaces.das` returns."""

    table: xr.Dataset
    projection: xr.Dataset
    losses: tuple[float, ...]


@verb
def subspace(result: xr.Dataset | Search, title: str | None = None, *, theme: str = "auto") -> go.Figure:
    """Interchange accuracy by layer and position beside its control; or one search in detail.

    result: of `subspaces.scan`: three heatmaps on one scale from 0 to 1, of the subspace, of the best null
    (what a search finds that has nothing to find) and of the whole site. Or of `subspaces.das`: accuracy of
    the subspace and of every control, the loss on the pairs held out for stopping, and the prompts in the
    first two directions of the subspace, coloured by the variable's value.

    theme: as in `plot.heads`. Raises ValueError for anything else.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=32, template=0)
        >>> found = interp.subspaces.das(
        ...     model, task, "output_position", "L2.resid_pre", "end", rank=2, n_pairs=32, steps=2,
        ...     controls=(), progress=False)
        >>> interp.plot.subspace(found).layout.title.text
        '<b>output_position in 2 directions of L2.resid_pre</b>'
    """
    if isinstance(result, xr.Dataset):
        missing = [name for name in _PANELS if name not in result]
        if missing or set(result["raw"].dims) != {"layer", "pos"}:
            raise ValueError(
                f"this is no result of subspaces.scan: it lacks {', '.join(missing) or 'layer and pos'}. "
                "Give that, or what subspaces.das returns."
            )
        return _places(result, title, theme)
    if not all(hasattr(result, name) for name in ("table", "projection", "losses")):
        raise ValueError(
            f"a {type(result).__name__} is no search; give what subspaces.das or subspaces.scan returns."
        )
    return _search(result, title, theme)


def _places(result: xr.Dataset, title: str | None, theme: str) -> go.Figure:
    n_layers, n_pos = result.sizes["layer"], result.sizes["pos"]
    height = min(max(30 * n_layers, 150), max(16 * n_layers, 480))
    fig = make_subplots(
        1, 3, subplot_titles=[f"<b>{name}</b>" for name in _PANELS.values()],
        horizontal_spacing=_GAP / look.WIDTH,
    )  # fmt: skip
    names = [str(each) for each in result["pos"].values]
    ticks: dict[str, Any] = look.token_axis(names, (look.WIDTH - _LEFT - _RIGHT) // 3) | (
        {"tickangle": 0} if n_pos <= 5 else {}
    )
    for column, (variable, name) in enumerate(_PANELS.items(), 1):
        fig.add_trace(_accuracies(result, variable, name), 1, column)
        fig.update_xaxes(title_text="position", **ticks, row=1, col=column)
        first = column == 1
        fig.update_yaxes(
            title_text="layer" if first else None, showticklabels=first, autorange="reversed",
            ticks="outside" if first else "", dtick=max(1, n_layers // 16), row=1, col=column,
        )  # fmt: skip
    fig.update_annotations(font_size=13, yshift=2)
    bar = {
        "title": {"text": "accuracy<br> ", "font": {"size": 12}}, "thickness": 14, "outlinewidth": 0,
        "dtick": 0.2, "tickfont": {"size": 11}, "lenmode": "pixels", "len": height + 40, "xpad": 16,
    }  # fmt: skip
    scale = look.scale(look.SEQUENTIAL)
    fig.update_layout(coloraxis={"colorscale": scale, "cmin": 0, "cmax": 1, "colorbar": bar})
    attrs = result.attrs
    heading = title or f"Where {attrs.get('variable', 'the variable')} is ({attrs.get('site', '')})"
    margins = {"left": _LEFT, "right": _RIGHT, "below": _BELOW, "above": 18}
    return frame(fig, heading, _subtitle(result), theme=theme, height=height, **margins)


def _accuracies(result: xr.Dataset, variable: str, name: str) -> go.Heatmap:
    """One panel, layer by position; numbers in the cells where there are few positions."""
    n_pos = result.sizes["pos"]
    values = result[variable].transpose("layer", "pos").values
    numbers = {} if n_pos > 5 else {"text": values, "texttemplate": "%{text:.2f}", "textfont": {"size": 11}}
    texts = [
        [
            f"<b>L{layer}, {escape(str(pos))}</b><br>{name}: {value:.3f}"
            for pos, value in zip(result["pos"].values, row)
        ]
        for layer, row in zip(result["layer"].values, values)
    ]
    return go.Heatmap(
        z=values, x=np.arange(n_pos), y=result["layer"].values, hovertext=texts, hoverinfo="text",
        coloraxis="coloraxis", xgap=1, ygap=1, **numbers,
    )  # fmt: skip


def _search(search: Search, title: str | None, theme: str) -> go.Figure:
    attrs = search.table.attrs
    height = _BARS + _BETWEEN + _PROMPTS
    fig = make_subplots(
        2, 2, specs=[[{}, {}], [{"colspan": 2}, None]], row_heights=[_BARS, _PROMPTS],
        vertical_spacing=_BETWEEN / height, horizontal_spacing=0.12,
        subplot_titles=["<b>accuracy on held-out pairs</b>", "<b>held-out loss</b>", "<b>prompts</b>"],
    )  # fmt: skip
    fig.add_trace(_bars(search.table), 1, 1)
    fig.update_xaxes(range=[0, 1.15], tickvals=[0, 0.25, 0.5, 0.75, 1], row=1, col=1)
    fig.update_yaxes(autorange="reversed", row=1, col=1)
    line = {"color": look.POSITIVE, "width": 2}
    loss = np.array(search.losses)
    trace = go.Scatter(
        x=np.arange(1, len(loss) + 1), y=loss, mode="lines+markers", line=line, showlegend=False
    )
    fig.add_trace(trace, 1, 2)
    fig.update_xaxes(title_text="check", row=1, col=2)
    fig.update_yaxes(title_text="nats", rangemode="tozero", showgrid=True, row=1, col=2)
    for trace in _prompts(search.projection):
        fig.add_trace(trace, 2, 1)
    share = search.projection["share"].values
    for axis, update in zip(range(len(share)), (fig.update_xaxes, fig.update_yaxes)):
        update(title_text=f"direction {axis + 1} ({100 * share[axis]:.0f} % of the variance)", row=2, col=1)
    if len(share) == 1:
        levels = _levels(search.projection)
        names = {"tickvals": list(range(len(levels))), "ticktext": [escape(level) for level in levels]}
        fig.update_yaxes(title_text="value", **names, row=2, col=1)
    fig.update_annotations(font_size=13, yshift=2)
    fig.update_layout(
        legend={"orientation": "h", "y": -0.11, "yanchor": "top", "x": 0.5, "xanchor": "center"},
        showlegend=len(_levels(search.projection)) <= _FEW,
    )
    rank = int(attrs["rank"])
    heading = f"{attrs['variable']} in {rank} direction{'s' if rank > 1 else ''} of {attrs['site']}"
    margins = {"left": 110, "right": 30, "below": 96, "above": 18}
    return frame(fig, title or heading, _subtitle(search.table), theme=theme, height=height, **margins)


def _bars(table: xr.Dataset) -> go.Bar:
    means = table["raw"].mean("pair")
    names = [str(name) for name in means["exchange"].values]
    order = [*(["subspace"] if "subspace" in names else []), *(n for n in names if n != "subspace")]
    colour = {"subspace": look.POSITIVE, **dict.fromkeys(_NULLS, look.MUTED)}
    values = [float(means.sel(exchange=name)) for name in order]
    return go.Bar(
        x=values, y=[_NAMES.get(name, name.replace("_", " ")) for name in order], orientation="h",
        showlegend=False,
        marker_color=[colour.get(name, look.NOTHING) for name in order], text=[f"{v:.2f}" for v in values],
        textposition="outside", cliponaxis=False, hoverinfo="text",
        hovertext=[f"{escape(name)}: {value:.3f}" for name, value in zip(order, values)],
    )  # fmt: skip


def _prompts(projection: xr.Dataset) -> list[go.Scatter]:
    """A trace a value where there are few; else one, coloured round the values, each named at its middle."""
    points, levels = projection["value"].values, projection["level"].values.astype(str)
    known = _levels(projection)
    numbers = np.array([known.index(level) for level in levels])
    y = points[:, 1] if points.shape[1] > 1 else numbers.astype(float)
    few = len(known) <= _FEW
    out = []
    for number, level in enumerate(known):
        mine = numbers == number
        colour = _COLOURS[number % len(_COLOURS)]
        dots: dict[str, Any] = {"mode": "markers", "marker": {"size": 7, "color": colour, "opacity": 0.75}}
        hover = [f"{escape(level)}<br>prompt {i}" for i in np.flatnonzero(mine)]
        out.append(
            go.Scatter(
                x=points[mine, 0], y=y[mine], name=escape(level), showlegend=few, hoverinfo="text",
                hovertext=hover, **dots,
            )
        )  # fmt: skip
    if not few:
        middles = [(points[numbers == i, 0].mean(), y[numbers == i].max()) for i in range(len(known))]
        out.append(
            go.Scatter(
                x=[x for x, _ in middles], y=[m for _, m in middles], mode="text", hoverinfo="skip",
                text=[escape(level) for level in known], textposition="top center", showlegend=False,
                textfont={"size": 10, "color": look.INK},
            )
        )  # fmt: skip
    return out


def _levels(projection: xr.Dataset) -> list[str]:
    return sorted(set(projection["level"].values.astype(str).tolist()))


def _subtitle(result: xr.Dataset) -> str:
    attrs = result.attrs
    rank = attrs.get("rank", "")
    parts = ["interchange accuracy", words.subject(result), f"{attrs.get('featuriser', '')}, rank {rank}"]
    if "pair" in result.sizes:
        parts.append(f"{result.sizes['pair']} held-out pairs")
    if "exchange" in result.coords:
        nulls = [str(name).replace("_", " ") for name in result["exchange"].values if name in _NULLS]
        parts += [f"nulls: {', '.join(nulls)}"] if nulls else []
    parts.append(str(attrs.get("judged", "")))
    return SEPARATOR.join(part for part in parts if part)
