"""Features of a dictionary by prompt: which of them matter where, the error of the dictionary beside them."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot import _words as words
from interp.plot._cells import require_dataset
from interp.plot._frame import frame
from interp.plot._theme import escape

_ROW, _LONGEST = 22, 44


@verb
def features(
    result: xr.Dataset,
    top: int = 20,
    metric: str | None = None,
    title: str | None = None,
    *,
    theme: str = "auto",
) -> go.Figure:
    """The `top` features by mean |effect|, a row each, by prompt; blue helps, red hurts. The error is the
    last row.

    result: of `patch` or `attribute` with `features=`, or of `sae.to_logits`: dims prompt and feature. The
    error is always drawn, since what a dictionary does not explain is not found in its features. Raises
    ValueError for what has no such dims.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> fig = interp.plot.features(interp.attribute(model, task, features=d, progress=False), top=5)
        >>> fig.data[0].z.shape
        (6, 4)
    """
    require_dataset(result, "features")
    shown, facts = words.one_metric(result, metric)
    _require_drawable(shown, top)
    value = shown["value"].transpose("feature", "prompt")
    index = value["index"].values if "index" in value.coords else np.zeros(value.sizes["feature"])
    order = np.argsort(-np.abs(value.values).mean(1), kind="stable")
    rows = [int(row) for row in order if index[row] >= 0][:top] + [
        int(row) for row in np.flatnonzero(index < 0)
    ]
    z = value.values[rows]
    names = [str(value["feature"].values[row]) for row in rows]
    hover = _hover(shown, names, z, escape(facts.unit))
    end, pixels = look.robust(z), max(160, _ROW * len(rows))
    heat = go.Heatmap(
        z=z, x=np.arange(z.shape[1]), y=np.arange(len(rows)), hovertext=hover, hoverinfo="text",
        coloraxis="coloraxis", xgap=1, ygap=1,
    )  # fmt: skip
    fig = go.Figure(heat)
    beyond = bool(np.abs(z).max() > end)
    fig.update_layout(
        coloraxis=look.effect_axis(f"{words.noun(result.attrs)} ({facts.unit})", pixels, end, beyond)
    )
    short = [escape(name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…") for name in names]
    fig.update_yaxes(tickmode="array", tickvals=list(range(len(rows))), ticktext=short, autorange="reversed")
    fig.update_xaxes(title_text="prompt", tickmode="auto", nticks=min(20, z.shape[1]))
    heading = words.heading(
        result, f"features: the {len(rows) - int((index < 0).any())} largest, and the error"
    )
    return frame(
        fig, title or heading, words.subtitle(shown, facts), theme=theme, height=pixels,
        left=28 + 7.2 * max(map(len, names)), right=120, below=62,
    )  # fmt: skip


def _require_drawable(shown: xr.Dataset, top: int) -> None:
    """ValueError for other dims than prompt and feature, and for no features."""
    if set(shown["value"].dims) != {"prompt", "feature"}:
        raise ValueError(
            f"the result has dims {', '.join(map(str, shown['value'].dims))}; this draws prompt and "
            "feature. Ask for "
            "features alone (by='feature'), or choose a position with .sel(pos=5)."
        )
    if not shown.sizes["feature"]:
        raise ValueError("the result has no features.")
    if top < 1:
        raise ValueError(f"top is {top}; draw at least one feature.")


def _hover(shown: xr.Dataset, names: list[str], z: np.ndarray, unit: str) -> list[list[str]]:
    """A text a cell: the feature, the prompt and the effect."""
    texts = shown["text"].values if "text" in shown.coords else [f"prompt {n}" for n in range(z.shape[1])]
    said = [escape(str(text)) for text in texts]
    return [
        [f"{escape(name)}<br>{text}<br>{look.number(v)} {unit}" for text, v in zip(said, row)]
        for name, row in zip(names, z)
    ]
