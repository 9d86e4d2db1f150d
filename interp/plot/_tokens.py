"""Text coloured by a value at every token, as plain HTML that needs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from interp._verbs import verb
from interp.plot import _theme as look
from interp.plot._theme import number, visible

_BREAK = "<wbr>"  # where a browser may break the line: between tokens, never within one


@dataclass(frozen=True)
class TokenStrip:
    """Tokens on coloured grounds, in lines. Jupyter shows it; `html()` is the same text.

    The strip brings its own ground and ink, so that it can be read wherever it is shown; with the theme
    "auto" they are light or dark as the reader's system says.
    """

    labels: tuple[str, ...]
    values: tuple[float, ...]
    title: str = ""
    unit: str = ""
    theme: str = "auto"

    def html(self) -> str:
        """The strip as an HTML fragment, escaped, with its styles inline."""
        end = look.symmetric(np.array(self.values))
        cells = _BREAK.join(self._cell(label, value, end) for label, value in zip(self.labels, self.values))
        unit = f" {self.unit}" if self.unit else ""
        key = f"{number(-end)} (red) to {number(end)} (blue){unit}"
        heading = f"<div style='font-weight:600'>{html.escape(self.title)}</div>" if self.title else ""
        style = (
            f"font-family:{look.FONT};font-size:14px;line-height:2;{self._paint(look.SURFACE, look.INK)};"
            "padding:8px 12px;border-radius:4px;overflow-wrap:anywhere"
        ).replace("'", '"')
        note = f"<div style='font-size:12px;{self._paint(look.SURFACE, look.MUTED)}'>{html.escape(key)}</div>"
        return f"<div class='token-strip' style='{style}'>{heading}<div>{cells}</div>{note}</div>"

    def _cell(self, label: str, value: float, end: float) -> str:
        text = number(value) if np.isfinite(value) else "no value"
        tip = html.escape(f"{visible(label)}: {text} {self.unit}".strip(), quote=True)
        style = f"{self._on_scale(value, end)};padding:3px 2px;margin:0 1px;border-radius:3px;white-space:pre"
        line_break = "<br>" if label.endswith("\n") else ""
        return f"<span style='{style}' title='{tip}'>{html.escape(visible(label))}</span>{line_break}"

    def _on_scale(self, value: float, end: float) -> str:
        """Ground and ink of a token."""
        if not np.isfinite(value):
            return self._paint(look.NOTHING, look.INK)
        light, dark = (colours(value, end, scale) for scale in (look.DIVERGING, look.in_dark(look.DIVERGING)))
        return _css(self.theme, light, dark)

    def _paint(self, ground: str, ink: str) -> str:
        """Ground and ink of the palette."""
        return _css(self.theme, (ground, ink), (look.in_dark(ground), look.in_dark(ink)))

    def _repr_html_(self) -> str:
        return self.html()


@verb
def tokens(
    labels: Sequence[str] | np.ndarray,
    values: Sequence[Any] | np.ndarray | xr.DataArray,
    title: str = "",
    unit: str = "",
    *,
    theme: str = "auto",
) -> TokenStrip:
    """Tokens coloured by their values: blue positive, red negative, white at 0, NaN grey.

    labels: the tokens. values: one a token. title, unit: said above and below. theme: "light", "dark", or
    "auto": as the reader's system says. Lines break between tokens, and after a token that ends in a newline.

    Raises ValueError where there is not one value for each token, and for another theme.

    Example:
        >>> import interp
        >>> strip = interp.plot.tokens([" Mary", " gave"], [0.5, -1.0], unit="logits")
        >>> "Mary" in strip.html()
        True
    """
    flat = np.asarray(values, dtype=np.float32)
    if flat.ndim != 1 or len(flat) != len(labels):
        raise ValueError(
            f"values have shape {flat.shape}, but there are {len(labels)} tokens. Give one value a token."
        )
    look.check(theme)
    return TokenStrip(tuple(str(label) for label in labels), tuple(flat.tolist()), title, unit, theme)


def _css(theme: str, light: tuple[str, str], dark: tuple[str, str]) -> str:
    """Ground and ink; with "auto" both palettes, and the light one for browsers older than light-dark()."""
    if theme != "auto":
        ground, ink = dark if theme == "dark" else light
        return f"background:{ground};color:{ink}"
    grounds, inks = zip(light, dark)
    follows = f"background:light-dark({','.join(grounds)});color:light-dark({','.join(inks)})"
    return f"background:{light[0]};color:{light[1]};color-scheme:light dark;{follows}"


def colours(value: float, end: float, scale: Sequence[str]) -> tuple[str, str]:
    """Ground and ink of a value on the scale from -end to end: the ink that has more contrast on it."""
    steps = np.array([_rgb(colour) for colour in scale])
    at = (value / end + 1) / 2 * (len(steps) - 1)
    ground = [round(float(np.interp(at, np.arange(len(steps)), steps[:, i]))) for i in range(3)]
    ink = max(("#ffffff", "#000000"), key=lambda colour: contrast(ground, _rgb(colour)))
    return f"rgb({ground[0]},{ground[1]},{ground[2]})", ink


def contrast(a: Sequence[int], b: Sequence[int]) -> float:
    """Contrast of two colours (red, green, blue to 255) as WCAG 2 defines it: 1 to 21, readable from 4.5."""
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Sequence[int]) -> float:
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgb(colour: str) -> tuple[int, int, int]:
    return (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))
