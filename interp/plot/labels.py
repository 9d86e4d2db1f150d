"""Text that plotly and HTML show as it is: tokens with spaces, `<s>`, `$`, line breaks."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
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
