"""Colours, fonts and titles, given to each figure, and text that plotly and HTML show as it is.

plotly's global default template is never touched.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

SPACE = "·"
_VISIBLE = {" ": SPACE, "\n": "\\n", "\t": "\\t", "\r": "\\r", "Ġ": SPACE, "▁": SPACE, "Ċ": "\\n"}
_LONGEST = 18


def escape(text: str) -> str:
    """Text for a plotly label: no tags, no entities, no `$` that starts maths."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token as it can be seen: `·` for a space, `\\n` for a line break, at most 18 letters."""
    shown = "".join(_VISIBLE.get(letter, letter) for letter in token)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def token_labels(result: xr.Dataset, dim: str = "pos") -> list[str]:
    """The token of each position, visible and not escaped; the position itself where tokens are unknown."""
    name = "token" if dim == "pos" else f"{dim}_token"
    known = result[name].values if name in result.coords else result[dim].values
    return [visible(str(token)) for token in known]


def token_axis(labels: Sequence[str]) -> dict:
    """An integer axis with a tick for every token, so that repeated tokens keep their own columns."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": [escape(label) for label in labels],
        "tickangle": -60 if max(map(len, labels), default=0) > 2 else 0,
    }


def number(value: float) -> str:
    """A value with its sign and four digits."""
    return "none" if not np.isfinite(value) else f"{value:+.4g}".replace("-", "−")


INK = "#1f2933"
MUTED = "#5f6b7a"
LINES = "#d5dae1"
POSITIVE, NEGATIVE = "#2166ac", "#b2182b"
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
# ColorBrewer RdBu and Blues, written out: plotly.py and plotly.js give the name RdBu opposite directions.
DIVERGING = (
    "#67001f", "#b2182b", "#d6604d", "#f4a582", "#fddbc7", "#f7f7f7",
    "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061",
)  # fmt: skip
SEQUENTIAL = (
    "#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b",
)  # fmt: skip

_SUBTITLE_PIXELS = 5.7  # width of a letter at size 12


def scale(colours: tuple[str, ...]) -> list[list]:
    """A plotly colour scale with equal steps."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def template() -> go.layout.Template:
    """The look of every figure."""
    axis = {
        "showgrid": False, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickcolor": LINES,
        "linecolor": LINES, "title": {"font": {"size": 13}, "standoff": 10}, "tickfont": {"size": 11},
    }  # fmt: skip
    layout = {
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {
            "bgcolor": "white",
            "font": {"family": FONT, "size": 12, "color": INK},
            "align": "left",
        },
    }
    return go.layout.Template(layout=layout)


def symmetric(values: np.ndarray) -> float:
    """The end of a scale centred on 0 that holds every finite value."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def effect_axis(values: np.ndarray, unit: str, pixels: int) -> dict:
    """A colour axis for effects: red, white at 0, blue."""
    end = symmetric(values)
    words = "<br>".join([*map(escape, textwrap.wrap(unit, 15)), " "])
    bar = {
        "title": {"text": words, "side": "top", "font": {"size": 12}},
        "thickness": 14, "lenmode": "pixels", "len": max(150.0, min(320.0, pixels)), "outlinewidth": 0,
        "tickfont": {"size": 11}, "x": 1.0, "xpad": 16, "y": 1.0, "yanchor": "top", "ypad": 0,
    }  # fmt: skip
    return {"colorscale": scale(DIVERGING), "cmin": -end, "cmax": end, "cmid": 0, "colorbar": bar}


def titles(title: str, subtitle: str, width: int) -> tuple[dict, int]:
    """layout.title with its subtitle wrapped to the width, and the pixels that they need above the plot."""
    lines = textwrap.wrap(subtitle, max(30, int((width - 40) / _SUBTITLE_PIXELS)))
    made = {
        "text": f"<b>{escape(title)}</b>",
        "font": {"size": 16},
        "x": 0,
        "xref": "container",
        "pad": {"l": 20},
        "yref": "container",
        "y": 1,
        "yanchor": "top",
        "subtitle": {
            "text": "<br>".join(escape(line) for line in lines),
            "font": {"size": 12, "color": MUTED},
        },
    }
    made["pad"]["t"] = 14
    return made, 60 + 16 * len(lines)
