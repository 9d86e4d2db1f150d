"""Top contexts of features: a row for each, the tokens around the largest value, the darker the larger."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot._cells import require_dataset
from interp.plot._frame import frame
from interp.plot._theme import escape

_ROW, _LETTERS = 24, 11  # pixels of a row; letters of a token that fit into a cell


@verb
def contexts(result: xr.Dataset, title: str | None = None, *, theme: str = "auto") -> go.Figure:
    """The contexts in which features are largest: a row each, feature after feature, the largest first.

    result: of `sae.contexts`. Colours are the activation as a share of the feature's largest. Raises
    ValueError for what is no such result, and for features of which no context turned any on.

    Example:
        >>> import torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> found = sae.contexts(model, d, interp.tasks.ioi(model, n=8), [3, 5], top=2, window=2)
        >>> interp.plot.contexts(found).data[0].z.shape
        (4, 5)
    """
    require_dataset(result, "contexts")
    rows = _rows(result)
    largest = np.nan_to_num(result["value"].values).max(1)  # of features that any prompt turned on
    activation = np.array([result["activation"].values[at] / largest[at[0]] for at in rows])
    tokens = [[str(each) for each in result["token"].values[at]] for at in rows]
    names = [str(each) for each in result["feature"].values]
    short = [[escape(_short(look.visible(each.strip()))) for each in row] for row in tokens]
    hover = _hover(result, rows, tokens, names)
    bright = [[f"<b>{word}</b>" if share == 1 else word for word, share in zip(row, shares)]
              for row, shares in zip(short, activation)]  # fmt: skip
    heat = go.Heatmap(
        z=activation, x=result["offset"].values, y=np.arange(len(rows)), text=bright, texttemplate="%{text}",
        hovertext=hover, hoverinfo="text", colorscale=look.scale(look.SEQUENTIAL), zmin=0, zmax=2.2, xgap=1,
        ygap=1, showscale=False, textfont={"size": 11},
    )  # fmt: skip
    fig = go.Figure(heat)
    first = [number for number, at in enumerate(rows) if number == 0 or at[0] != rows[number - 1][0]]
    fig.update_yaxes(
        tickmode="array", tickvals=first, ticktext=[escape(names[rows[each][0]]) for each in first],
        autorange="reversed",
    )  # fmt: skip
    fig.update_xaxes(visible=False)
    facts = result.attrs
    subtitle = f"{facts['model']} · {facts['n_prompts']} prompts · {facts['dictionary']}"
    left = 28 + 7.2 * max(map(len, names))
    heading = title or "Features: the prompts in which each is largest"
    return frame(fig, heading, subtitle, theme=theme, height=_ROW * len(rows), left=left, right=20, below=20)


def _rows(result: xr.Dataset) -> list[tuple[int, int]]:
    """(feature, rank) of each context; ValueError where there is none."""
    if not {"activation", "token"} <= set(result.data_vars):
        raise ValueError(
            "the result has no contexts; give that of sae.contexts(model, dictionary, data, features)."
        )
    rows = [
        (feature, rank)
        for feature, rank in np.ndindex(result["value"].shape)
        if np.isfinite(result["value"].values[feature, rank])
    ]
    if not rows:
        raise ValueError("no prompt turned any of these features on, so there is no context to draw.")
    return rows


def _hover(
    result: xr.Dataset, rows: list[tuple[int, int]], tokens: list[list[str]], names: list[str]
) -> list[list[str]]:
    """A text a cell: the feature, the token and the activation."""
    numbers = [result["activation"].values[at] for at in rows]
    return [
        [
            f"{escape(names[at[0]])}<br>{escape(word)}<br>{look.number(value)}"
            for word, value in zip(row, values)
        ]
        for at, row, values in zip(rows, tokens, numbers)
    ]


def _short(word: str) -> str:
    return word if len(word) <= _LETTERS else word[: _LETTERS - 1] + "…"
