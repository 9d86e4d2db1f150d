"""What was done to the weights of a model: a map of its matrices by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot._frame import frame
from interp.plot._theme import escape

_NEEDED = ("norm", "relative", "rank")
_ROW = 22  # pixels


@verb
def edits(result: xr.Dataset, title: str | None = None, *, theme: str = "auto") -> go.Figure:
    """How much each matrix of a model changed, by layer, with the effective rank of the change in the cell.

    result: of `steering.audit`. Colour: the norm of the difference, as a share of the matrix's own; white is
    unchanged. A number 1.0 is an edit of one direction. Raises ValueError for another Dataset.

    Example:
        >>> from interp import steering
        >>> before, after = interp.load("tiny-ioi"), interp.load("tiny-ioi")
        >>> d = steering.Direction.from_tensor(before.W_U[:, 5], "L1.mlp_out")
        >>> with steering.bake(after, steering.ablate(d)):
        ...     figure = interp.plot.edits(steering.audit(before, after))
        >>> len(figure.data)
        1
    """
    missing = [name for name in _NEEDED if name not in result]
    if missing:
        raise ValueError(
            f"this is not the result of steering.audit: it lacks {', '.join(missing)}. It has "
            f"{', '.join(map(str, result.data_vars)) or 'no variables'}."
        )
    in_blocks = result.isel(matrix=np.flatnonzero(result["layer"].values >= 0))
    kinds = list(dict.fromkeys(in_blocks["kind"].values))
    layers = sorted(set(in_blocks["layer"].values.tolist()))
    share, texts, hover = _cells(in_blocks, kinds, layers)
    cells = go.Heatmap(
        z=share, x=layers, y=kinds, text=texts, texttemplate="%{text}", hovertext=hover, hoverinfo="text",
        coloraxis="coloraxis", xgap=1, ygap=1,
    )  # fmt: skip
    fig = go.Figure(cells)
    fig.update_layout(coloraxis=_colours(share))
    fig.update_xaxes(title_text="layer", dtick=max(1, len(layers) // 16))
    fig.update_yaxes(autorange="reversed")
    subtitle = f"{result.attrs['before']} against {result.attrs['model']} · {result.attrs['conclusion']}"
    subtitle += " · numbers: effective rank of the change"
    height = max(_ROW * len(kinds), 180)
    return frame(
        fig,
        title or "What was done to the weights",
        subtitle,
        theme=theme,
        height=height,
        left=120,
        right=100,
        below=58,
    )


def _cells(in_blocks: xr.Dataset, kinds: list[str], layers: list[int]) -> tuple[np.ndarray, ...]:
    """Share of change, text and hover of each matrix [kind, layer]; NaN and no text where there is none."""
    shape = (len(kinds), len(layers))
    share, texts, hover = np.full(shape, np.nan), np.full(shape, "", object), np.full(shape, "", object)
    for name in in_blocks["matrix"].values:
        row = in_blocks.sel(matrix=name)
        at = kinds.index(row["kind"].item()), layers.index(int(row["layer"]))
        share[at], rank = float(row["relative"]), float(row["rank"])
        texts[at] = f"{rank:.1f}" if float(row["norm"]) > 0 and len(layers) <= 16 else ""
        hover[at] = (
            f"<b>{escape(str(name))}</b><br>norm of the difference {float(row['norm']):.3g}, "
            f"{100 * share[at]:.2g} % of its own<br>effective rank {rank:.2f}"
        )
    share = np.nan_to_num(share, nan=float(np.nanmax(share, initial=0.0)))  # a bias that was 0 before
    share[hover == ""] = np.nan
    return share, texts, hover


def _colours(share: np.ndarray) -> dict[str, Any]:
    """The colour axis: from unchanged to the largest change."""
    most = float(np.nanmax(share, initial=0.0)) or 1.0
    bar = {"title": {"text": "change<br> ", "font": {"size": 12}}, "thickness": 14, "outlinewidth": 0,
           "tickformat": ".2~%", "tickfont": {"size": 11}, "xpad": 12}  # fmt: skip
    return {"colorscale": look.scale(look.SEQUENTIAL), "cmin": 0.0, "cmax": most, "colorbar": bar}
