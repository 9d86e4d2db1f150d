"""Text coloured by a value at every token, as plain HTML that needs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from interp.plot import _theme as theme
from interp.plot._theme import number, visible


@dataclass(frozen=True)
class TokenStrip:
    """A row of tokens on coloured grounds. Jupyter shows it; `html()` is the same text."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    title: str = ""
    unit: str = ""

    def html(self) -> str:
        """The strip as an HTML fragment, escaped, with its styles inline."""
        end = theme.symmetric(np.array(self.values))
        cells = "".join(self._cell(label, value, end) for label, value in zip(self.labels, self.values))
        unit = f" {self.unit}" if self.unit else ""
        key = f"{number(-end)} (red) to {number(end)} (blue){unit}"
        heading = f"<div style='font-weight:600'>{html.escape(self.title)}</div>" if self.title else ""
        style = f"font-family:{theme.FONT};font-size:14px;line-height:2;color:{theme.INK}".replace("'", '"')
        note = f"<div style='font-size:12px;color:{theme.MUTED}'>{html.escape(key)}</div>"
        return f"<div class='token-strip' style='{style}'>{heading}<div>{cells}</div>{note}</div>"

    def _cell(self, label: str, value: float, end: float) -> str:
        ground, ink = colours(value, end)
        tip = html.escape(f"{visible(label)}: {number(value)} {self.unit}".strip(), quote=True)
        style = (
            f"background:{ground};color:{ink};padding:3px 2px;margin:0 1px;border-radius:3px;white-space:pre"
        )
        line_break = "<br>" if label.endswith("\n") else ""
        return f"<span style='{style}' title='{tip}'>{html.escape(visible(label))}</span>{line_break}"

    def _repr_html_(self) -> str:
        return self.html()


def tokens(
    labels: Sequence[str] | np.ndarray,
    values: Sequence[float] | np.ndarray | xr.DataArray,
    title: str = "",
    unit: str = "",
) -> TokenStrip:
    """Tokens coloured by their values: blue positive, red negative, white at 0, NaN left uncoloured."""
    flat = np.asarray(values, dtype=np.float32)
    if flat.ndim != 1 or len(flat) != len(labels):
        raise ValueError(
            f"values have shape {flat.shape}, but there are {len(labels)} tokens. Give one value a token."
        )
    return TokenStrip(tuple(str(label) for label in labels), tuple(flat.tolist()), title, unit)


def colours(value: float, end: float) -> tuple[str, str]:
    """Ground and ink of a value on the scale from -end to end."""
    if not np.isfinite(value):
        return "transparent", theme.MUTED
    steps = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in theme.DIVERGING])
    at = (value / end + 1) / 2 * (len(steps) - 1)
    red, green, blue = (round(float(np.interp(at, np.arange(len(steps)), steps[:, i]))) for i in range(3))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140
    return f"rgb({red},{green},{blue})", "#ffffff" if dark else theme.INK
