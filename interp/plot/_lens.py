"""What a lens reads: layer × position with the likeliest token in each cell, or curves by layer at one
position.

The grid's last row is what the model says. A cell's colour is the probability of its token, or what `show`
names; the hover has the likeliest tokens, the target's rank, entropy and KL to the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from interp._verbs import verb
from interp.places import hint
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._frame import SEPARATOR, frame
from interp.plot._theme import escape, token_axis, visible
from interp.results import require_axes

SHOWN = {
    "probability": "probability of the token shown", "rank": "rank of the target (0: on top)",
    "kl": "KL(model ‖ layer), nats", "entropy": "entropy, nats", "logit": "centred logit",
}  # fmt: skip
_LEFT, _RIGHT, _ROW = 64, 110, 24
_LETTER, _ROOM = 7.0, look.WIDTH - 64 - 110  # pixels of a letter in a cell, and of all cells
_MOST = 26  # columns whose cells hold a token
_TALLEST = 640


@verb
def lens(
    result: xr.Dataset,
    show: str | None = None,
    prompt: int = 0,
    target: int = 0,
    at: int | None = None,
    title: str | None = None,
    *,
    theme: str = "auto",
) -> go.Figure:
    """What each layer would say at each token of a prompt: its likeliest token, and how near that is to the
    end.

    result: of `lens.logit`. show: what the colour is: "probability" (of the token in the cell), "rank" of a
    target, "kl", "entropy", or "logit" where directions were read. prompt, target: which of several. at: one
    position, whose ranks (on a log axis) and KL are drawn as curves over layers; this is also what a result
    of one position gives. Raises ValueError for another Dataset, results of single heads (choose one with
    `.sel(head=3)`), and what is not there.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> found = interp.lens.logit(model, interp.tasks.ioi(model, n=2, seed=0))
        >>> len(interp.plot.lens(found).data), len(interp.plot.lens(found, at=-1).data)
        (1, 2)
    """
    one = _checked(result, prompt, target)
    n_pos = _length(one)
    if at is not None and not -n_pos <= at < n_pos:
        raise ValueError(f"at is {at}; the prompt has {n_pos} tokens.")
    one = one.isel(pos=slice(0, n_pos))
    if at is not None or n_pos == 1:
        return _curves(result, one.isel(pos=-1 if at is None else at), title, theme)
    return _grid(result, one, show, title, theme)


def _checked(result: xr.Dataset, prompt: int, target: int) -> xr.Dataset:
    missing = [name for name in ("value", "rank", "top_token", "top_value") if name not in result]
    if missing or "layer" not in result.dims:
        raise ValueError(
            f"this is not the result of lens.logit: it lacks {', '.join(missing) or 'the dim layer'}. It has "
            f"{', '.join(map(str, result.data_vars)) or 'no variables'}."
        )
    require_axes(result, "plot.lens", "prompt", "layer", "pos", "target", "place")
    if "head" in result.dims:
        raise ValueError("the result has a row for each head; choose one with .sel(head=3).")
    for name, index in (("prompt", prompt), ("target", target)):
        if not -result.sizes[name] <= index < result.sizes[name]:
            raise ValueError(f"{name} is {index}; the result has {result.sizes[name]}.")
    return result.isel(prompt=prompt, target=target)


def _length(one: xr.Dataset) -> int:
    """Tokens of the prompt."""
    return int((one["top_id"].isel(layer=0, place=0) >= 0).sum())


def _grid(result: xr.Dataset, one: xr.Dataset, show: str | None, title: str | None, theme: str) -> go.Figure:
    states = "kl" in one
    show = ("probability" if states else "logit") if show is None else show
    known = ["probability", "rank", "kl", "entropy"] if states else ["logit", "rank"]
    if show not in known:
        raise ValueError(f"show is {show!r}; this result has {', '.join(known)}{hint(show, known)}")
    labels = [visible(str(token)) for token in one["token"].values]
    n_layers, n_pos = one.sizes["layer"], one.sizes["pos"]
    height = min(_TALLEST, max(_ROW * n_layers, 160))
    z = _colours(one, show)
    cells = one["top_token"].isel(place=0).transpose("layer", "pos").values
    letters = int(_ROOM / n_pos / _LETTER)
    text = np.vectorize(lambda token: _cut(visible(str(token)), letters), otypes=[object])(cells)
    size = max(8, min(11, int(0.62 * height / n_layers)))
    written = letters >= 2 and n_pos <= _MOST and height / n_layers >= 12
    turned = show in ("rank", "kl", "entropy")  # little is near to the end
    scale = look.scale(look.DIVERGING if show == "logit" else look.SEQUENTIAL)
    heat = go.Heatmap(
        z=z, x=np.arange(n_pos), y=one["layer"].values, text=text if written else None,
        texttemplate="%{text}" if written else None, textfont={"size": size}, hovertext=_hover(one),
        hoverinfo="text", colorscale=scale, reversescale=turned, colorbar=_colour_bar(show, z, height),
        xgap=1, ygap=1, **_ends(show, z),
    )  # fmt: skip
    fig = go.Figure(heat)
    fig.update_xaxes(title_text="token that is read", **token_axis(labels, _ROOM))
    fig.update_yaxes(title_text="layer", dtick=max(1, n_layers // 16))
    below = 62 + 7 * max(map(len, labels), default=0)
    heading = title or f"What each layer says: {result.attrs.get('method', 'lens')}"
    part = "" if result.sizes["prompt"] == 1 else f"prompt {int(one['prompt'])} of {result.sizes['prompt']}"
    said = SEPARATOR.join(each for each in (words.subject(result), _site(result), SHOWN[show], part) if each)
    return frame(
        fig, heading, said, theme=theme, height=height, left=_LEFT, right=_RIGHT, below=below
    )  # fmt: skip


def _colours(one: xr.Dataset, show: str) -> np.ndarray:
    dims = ("layer", "pos")
    if show == "probability":
        return np.exp(one["top_value"].isel(place=0).transpose(*dims).values)
    if show == "logit":
        return one["value"].transpose(*dims).values
    values = one[show].transpose(*dims).values
    return np.log10(1 + values) if show == "rank" else values


def _colour_bar(show: str, z: np.ndarray, height: int) -> dict[str, Any]:
    """The bar beside the grid; ranks are written as they are, though drawn as logarithms."""
    bar: dict[str, Any] = {
        "title": {"text": f"{_bar(show)}<br> ", "font": {"size": 12}}, "thickness": 14, "outlinewidth": 0,
        "tickfont": {"size": 11}, "lenmode": "pixels", "len": min(height, 300), "y": 1, "yanchor": "top",
        "xpad": 16,
    }  # fmt: skip
    if show == "rank":
        top = max(1, int(np.ceil(np.nanmax(z))))
        bar |= {"tickvals": list(range(top + 1)), "ticktext": [f"{10**k - 1:,}" for k in range(top + 1)]}
    return bar


def _ends(show: str, z: np.ndarray) -> dict[str, Any]:
    """The ends of the colours, where they are not those of the values."""
    if show == "logit":
        end = look.robust(z)
        return {"zmin": -end, "zmax": end}
    return {"zmin": 0, "zmax": 1} if show == "probability" else {}


def _bar(show: str) -> str:
    return {"kl": "KL, nats", "entropy": "entropy,<br>nats", "rank": "rank", "logit": "centred<br>logit"}.get(
        show, "probability"
    )


def _site(result: xr.Dataset) -> str:
    return str(result.attrs.get("site", ""))


def _cut(token: str, letters: int) -> str:
    token = token.removeprefix(look.SPACE) or token
    return escape(token if len(token) <= letters else token[: max(1, letters - 1)] + "…")


def _hover(one: xr.Dataset) -> np.ndarray:
    """A text a cell: the likeliest tokens, and the numbers of the target."""
    states = "kl" in one
    values = one["top_value"].transpose("layer", "pos", "place").values
    values = np.exp(values) if states else values
    tokens = one["top_token"].transpose("layer", "pos", "place").values
    out = np.empty(values.shape[:2], dtype=object)
    for i, j in np.ndindex(*out.shape):
        cell = one.isel(layer=i, pos=j)
        lines = [f"<b>layer {int(cell['layer'])}, {escape(visible(str(cell['token'].item())))}</b>"]
        lines += [
            f"{escape(visible(str(token)))}  {value:.3f}" for token, value in zip(tokens[i, j], values[i, j])
        ]
        target = escape(visible(str(cell["target_token"].item())))
        lines.append(f"target {target}: rank {cell['rank'].item():,.0f}")
        if states:
            lines.append(f"entropy {cell['entropy'].item():.2f}, KL to the end {cell['kl'].item():.3g} nats")
        out[i, j] = "<br>".join(lines)
    return out


def _curves(result: xr.Dataset, one: xr.Dataset, title: str | None, theme: str) -> go.Figure:
    """Ranks of the targets, and KL to the end, over layers at one position."""
    x, states = one["layer"].values, "kl" in one
    fig = make_subplots(1, 2 if states else 1, subplot_titles=_titles(states), horizontal_spacing=0.14)
    whole = result.isel(prompt=int(np.flatnonzero(result["prompt"].values == one["prompt"].values)[0]))
    whole = whole.isel(pos=int(np.flatnonzero(whole["pos"].values == one["pos"].values)[0]))
    colours = (look.POSITIVE, *look.CATEGORIES, look.PLAIN, look.NEGATIVE)
    for k in range(whole.sizes["target"]):
        name = visible(str(whole["target_token"].values[k]))
        rank = whole["rank"].isel(target=k).values
        fig.add_trace(
            _line(x, rank + 1, name, colours[k % len(colours)], [f"rank {r:,.0f}" for r in rank]), 1, 1
        )
    top = max(1, int(np.ceil(np.log10(1 + float(np.nanmax(whole["rank"].values))))))
    ticks = {
        "tickvals": [10**k for k in range(top + 1)],
        "ticktext": [f"{10**k - 1:,}" for k in range(top + 1)],
    }
    fig.update_yaxes(
        type="log", range=[top + 0.1, -0.1], title_text="rank", showgrid=True, **ticks, row=1, col=1
    )
    if states:
        kl = one["kl"].values
        line = _line(x, kl, "KL to the end", look.MUTED, [f"{value:.3g} nats" for value in kl])
        fig.add_trace(line.update(showlegend=False), 1, 2)
        fig.update_yaxes(title_text="nats", rangemode="tozero", showgrid=True, row=1, col=2)
    fig.update_xaxes(title_text="layer", dtick=max(1, len(x) // 12))
    fig.update_annotations(font_size=13, yshift=2)
    legend = {"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0, "xanchor": "left"}
    fig.update_layout(legend=legend, showlegend=True)
    token = visible(str(one["token"].item()))
    heading = title or f"Rank by layer at “{token}”: {result.attrs.get('method', 'lens')}"
    said = SEPARATOR.join(each for each in (words.subject(result), _site(result)) if each)
    return frame(fig, heading, said, theme=theme, height=280, left=_LEFT, right=30, below=110, above=18)


def _titles(states: bool) -> list[str]:
    return ["<b>rank of the targets</b>", *(["<b>KL(model ‖ layer)</b>"] if states else [])]


def _line(x: np.ndarray, y: np.ndarray, name: str, colour: str, said: list[str]) -> go.Scatter:
    return go.Scatter(
        x=x, y=y, mode="lines+markers", name=escape(name), line={"color": colour, "width": 2},
        marker={"size": 6, "color": colour}, hoverinfo="text",
        hovertext=[f"{escape(name)}<br>layer {layer}<br>{text}" for layer, text in zip(x, said)],
    )  # fmt: skip
