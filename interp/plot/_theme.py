"""Colours and fonts, given to each figure, and text that plotly and HTML show as it is.

A figure is drawn in the light palette; `themed` exchanges it for the dark one, colour by colour, and on pages
`follow` does so where the reader's system is dark. plotly's global default template is never touched.
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

INK, MUTED, LINES, GRID, SURFACE = "#1f2933", "#5f6b7a", "#d5dae1", "#eceff3", "#ffffff"
POSITIVE, NEGATIVE, NOTHING = "#2166ac", "#b2182b", "#c3c9d1"
QUERY, KEY, VALUE, PLAIN = "#7b3294", "#d9820b", "#1b7f4d", "#44607c"
CATEGORIES = (VALUE, KEY, QUERY)
BAND, POSITIVE_BAND = "rgba(95,107,122,0.18)", "rgba(33,102,172,0.15)"
FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
# ColorBrewer RdBu and Blues, written out: plotly.py and plotly.js give the name RdBu opposite directions.
DIVERGING = (
    "#67001f", "#b2182b", "#d6604d", "#f4a582", "#fddbc7", "#f7f7f7",
    "#d1e5f0", "#92c5de", "#4393c3", "#2166ac", "#053061",
)  # fmt: skip
SEQUENTIAL = (
    "#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b",
)  # fmt: skip
_DARK = {
    INK: "#e6e9ee", MUTED: "#a3adba", LINES: "#454e59", GRID: "#2a3038", SURFACE: "#14181d",
    POSITIVE: "#6baed6", NEGATIVE: "#f4806e", NOTHING: "#4d5661",
    QUERY: "#c49add", KEY: "#e8a33d", VALUE: "#5cc08d", PLAIN: "#8fa8c2",
    BAND: "rgba(163,173,186,0.25)", POSITIVE_BAND: "rgba(107,174,214,0.22)",
}  # fmt: skip
_DARK_SCALES = {  # the middle of a scale is the ground that it lies on
    DIVERGING: (
        "#ffc2b8", "#f4806e", "#cf4a3f", "#93312c", "#52241f", "#20252b",
        "#1c3a52", "#22608c", "#3f8fc4", "#6baed6", "#c6e2f5",
    ),
    SEQUENTIAL: (
        "#1a2129", "#1c2f40", "#1d4160", "#20547f", "#2a6ba0", "#3f86bd", "#62a3d3", "#93c2e4", "#d0e5f5",
    ),
}  # fmt: skip
WIDTH = 800  # pixels: of the container for which ticks, titles and gaps are set
_HUGE, _FEW, _MANY = 3.0, 0.01, 8  # of the largest values that do not set a scale
_COLUMN = 11  # pixels that a tick's label needs

THEMES = ("auto", "light", "dark")
SPACE = "·"
_VISIBLE = {" ": SPACE, "\n": "\\n", "\t": "\\t", "\r": "\\r", "Ġ": SPACE, "▁": SPACE, "Ċ": "\\n"}
_LONGEST = 18


def themed(fig: go.Figure, theme: str) -> go.Figure:
    """A copy of a figure in a theme. "auto": as it is, and on a page as the reader's system says.

    Raises ValueError for another theme.
    """
    check(theme)
    if theme == "auto" or not own(fig):
        return go.Figure(fig)
    traces: Any = fig.data
    parts = [[trace.to_plotly_json() for trace in traces], fig.layout.to_plotly_json()]
    data, layout = (_exchange(part, theme == "dark") for part in parts)
    return go.Figure(data, layout).update_layout(meta={"theme": theme})


def check(theme: str) -> None:
    """Raise ValueError for a theme that is not there."""
    if theme not in THEMES:
        raise ValueError(f"theme is {theme!r}; it must be 'auto', 'light' or 'dark'.")


def own(fig: go.Figure) -> bool:
    """Whether a figure is drawn in the palette of this module."""
    return isinstance(fig.layout.meta, dict) and fig.layout.meta.get("theme") in THEMES


def _exchange(node: Any, dark: bool) -> Any:
    """The same tree with every colour of the one palette exchanged for that of the other."""
    scales, colours = (_DARK_SCALES, _DARK) if dark else (_LIGHT_SCALES, _LIGHT)
    if isinstance(node, dict):
        return {key: _exchange(value, dark) for key, value in node.items()}
    if isinstance(node, list | tuple):
        steps = tuple(part[1] for part in node if isinstance(part, list | tuple) and len(part) == 2)
        if len(steps) == len(node) and (steps in scales or steps in scales.values()):
            return scale(scales.get(steps, steps))  # a scale of this theme stays as it is
        return [_exchange(value, dark) for value in node]
    return colours.get(node, node) if isinstance(node, str) else node


def in_dark(colours: Any) -> Any:
    """A colour of the palette, or a scale, in the dark theme."""
    return _DARK[colours] if isinstance(colours, str) else _DARK_SCALES[colours]


_LIGHT = {dark: light for light, dark in _DARK.items()}
_LIGHT_SCALES = {dark: light for light, dark in _DARK_SCALES.items()}
_FOLLOW = """(() => {
  const colours = COLOURS, scales = SCALES, dark = matchMedia("(prefers-color-scheme: dark)");
  const turned = node => {
    if (typeof node === "string") return colours[node] ?? node;
    if (Array.isArray(node)) {
      const pairs = node.length > 2 && node.every(part => Array.isArray(part) && part.length === 2);
      const scale = pairs && scales[node.map(part => part[1])];
      return scale ? scale.map((colour, i) => [i / (scale.length - 1), colour]) : node.map(turned);
    }
    if (!node || Object.getPrototypeOf(node) !== Object.prototype) return node;
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, turned(value)]));
  };
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    if (plot.layout?.meta?.theme !== "auto") continue;
    const light = structuredClone({data: plot.data, layout: plot.layout});
    const draw = () => {
      const {data, layout} = structuredClone(dark.matches ? turned(light) : light);
      Plotly.react(plot, data, layout);
    };
    if (dark.matches) draw();
    dark.addEventListener("change", draw);
  }
})();"""


def follow() -> str:
    """A script for the end of a page: figures of the theme "auto" turn dark with the reader's system."""
    scales = {",".join(light): dark for light, dark in _DARK_SCALES.items()}
    script = _FOLLOW.replace("COLOURS", json.dumps(_DARK)).replace("SCALES", json.dumps(scales))
    return f"<script>{script}</script>"


def ground(theme: str) -> str:
    """CSS of a page: its ground and ink in a theme."""
    check(theme)
    light, dark = f":root{{--ink:{INK};--surface:{SURFACE};--muted:{MUTED};--lines:{LINES}}}", ""
    for name, colour in (("ink", INK), ("surface", SURFACE), ("muted", MUTED), ("lines", LINES)):
        dark += f"--{name}:{_DARK[colour]};"
    dark = f":root{{{dark}}}"
    asked = f"@media screen and (prefers-color-scheme:dark){{{dark}}}"
    rules = {
        "auto": f":root{{color-scheme:light dark}}{light}{asked}",
        "light": f":root{{color-scheme:light}}{light}",
        "dark": f":root{{color-scheme:dark}}{dark}",
    }
    return f"{rules[theme]}body{{background:var(--surface);color:var(--ink)}}"


def scale(colours: tuple[str, ...]) -> list[list]:
    """A plotly colour scale with equal steps."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def template() -> go.layout.Template:
    """The look of every figure."""
    axis = {
        "showgrid": False, "zeroline": False, "ticks": "outside", "ticklen": 4, "tickcolor": LINES,
        "linecolor": LINES, "gridcolor": GRID, "zerolinecolor": LINES,
        "title": {"font": {"size": 13}, "standoff": 10}, "tickfont": {"size": 11},
    }  # fmt: skip
    font = {"family": FONT, "size": 12, "color": INK}
    layout = {
        "font": font,
        "title": {"font": {"size": 16}, "subtitle": {"font": {"size": 12, "color": MUTED}}},
        "paper_bgcolor": SURFACE,
        "plot_bgcolor": SURFACE,
        "xaxis": axis,
        "yaxis": axis,
        "hoverlabel": {"bgcolor": SURFACE, "bordercolor": LINES, "font": font, "align": "left"},
    }
    return go.layout.Template(layout=layout)


def symmetric(values: np.ndarray) -> float:
    """The end of a scale centred on 0 that holds every finite value."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def robust(values: np.ndarray) -> float:
    """The end of a scale centred on 0 that a few huge values do not flatten.

    The largest |value|; but where that is more than `_HUGE` times the largest that the top `_FEW` of the
    cells (one at least) leaves, then this one, and what lies beyond has the colour of the end.
    """
    finite = np.sort(np.abs(values[np.isfinite(values)]).ravel())
    few = max(1, int(_FEW * finite.size))
    rest = float(finite[-1 - few]) if finite.size > few + _MANY else 0.0
    return rest if rest > 0 and finite[-1] > _HUGE * rest else symmetric(values)


def effect_axis(unit: str, pixels: int, end: float, beyond: bool = False, *, one_sided: bool = False) -> dict:
    """A colour axis for effects from -end to end: red, white at 0, blue. beyond: some lie beyond it.
    one_sided: for what is never below 0, from 0 to end in blue.
    """
    words = "<br>".join([*map(escape, textwrap.wrap(unit, 15)), " "])
    bar = {
        "title": {"text": words, "side": "top", "font": {"size": 12}},
        "thickness": 14, "lenmode": "pixels", "len": max(150.0, min(320.0, pixels)), "outlinewidth": 0,
        "tickfont": {"size": 11}, "x": 1.0, "xpad": 16, "y": 1.0, "yanchor": "top", "ypad": 0,
    }  # fmt: skip
    if one_sided:
        return {"colorscale": scale(SEQUENTIAL), "cmin": 0.0, "cmax": end, "colorbar": bar}
    if beyond:
        shown = [-end, -end / 2, 0.0, end / 2, end]
        words = [f"{step:.2g}".replace("-", "−") for step in shown]
        bar |= {"tickvals": shown, "ticktext": [f"≤ {words[0]}", *words[1:-1], f"≥ {words[-1]}"]}
    return {"colorscale": scale(DIVERGING), "cmin": -end, "cmax": end, "cmid": 0, "colorbar": bar}


def escape(text: str) -> str:
    """Text for a plotly label: no tags, no entities, no `$` that starts maths."""
    return html.escape(str(text), quote=False).replace("$", "&#36;")


def visible(token: str) -> str:
    """A token as it can be seen: `·` for a space, `\\n` for a line break, at most 18 letters (`…`: cut)."""
    shown = "".join(_VISIBLE.get(letter, letter) for letter in token)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def token_labels(result: xr.Dataset, dim: str = "pos") -> list[str]:
    """The token of each position, visible and not escaped; the position itself where tokens are unknown."""
    name = {"pos": "token", "span": "span"}.get(dim, f"{dim}_token")
    known = result[name].values if name in result.coords else result[dim].values
    return [visible(str(token)) for token in known]


def token_axis(labels: Sequence[str], pixels: int = WIDTH) -> dict:
    """An integer axis with a tick for every token, so that repeated tokens keep their own columns.

    pixels: the width of the axis; where it is too narrow for a label at every column, every k-th has one.
    """
    step = max(1, -(-len(labels) * _COLUMN // max(pixels, 1)))
    shown = range(0, len(labels), step)
    long = max(map(len, labels), default=0) > 2
    return {
        "tickmode": "array",
        "tickvals": list(shown),
        "ticktext": [escape(labels[i]) for i in shown],
        "tickangle": (-90 if len(labels) * 20 > pixels else -60) if long else 0,
    }


def number(value: float) -> str:
    """A value with its sign and four digits."""
    return "none" if not np.isfinite(value) else f"{value:+.4g}".replace("-", "−")
