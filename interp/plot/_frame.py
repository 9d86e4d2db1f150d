"""The frame of every figure: title, subtitle, height, margins, and its theme.

A title says what is drawn, a subtitle how it was made. Figures have a height, which their content gives,
and no width, so that they fill their container.
"""

from __future__ import annotations

import textwrap

import plotly.graph_objects as go

from interp.plot._theme import check, escape, template, themed

SEPARATOR = " · "  # of the parts of a subtitle
_LETTERS = 118  # in a line of a subtitle


def frame(
    fig: go.Figure,
    title: str,
    subtitle: str,
    *,
    theme: str,
    height: float,
    left: float,
    right: float,
    below: float,
    above: float = 0,
) -> go.Figure:
    """The figure in its frame.

    height: pixels of the plotting area; left, right, below: of its margins; above: what it needs under the
    subtitle, such as the titles of panels.
    """
    check(theme)
    heading, top = titles(title, subtitle)
    top += above
    fig.update_layout(
        template=template(),
        title=heading,
        autosize=True,
        height=int(top + height + below),
        margin={"l": left, "r": right, "t": top, "b": below},
        meta={"theme": "auto"},
    )
    return themed(fig, theme)


def titles(title: str, subtitle: str) -> tuple[dict, int]:
    """layout.title with its subtitle in lines for a page of `WIDTH`, and the pixels that both need."""
    lines = _lines(subtitle)
    shown = lines if len(lines) > 1 else [*lines, " "]  # plotly lets a line alone sink
    layout = {
        "text": f"<b>{escape(title)}</b>",
        "x": 0,
        "xref": "container",
        "pad": {"l": 20, "t": 14},
        "yref": "container",
        "y": 1,
        "yanchor": "top",
        "subtitle": {"text": "<br>".join(escape(line) for line in shown)},
    }
    return layout, 60 + 16 * len(lines)


def _lines(subtitle: str) -> list[str]:
    """A subtitle in lines that break between its parts, or between words where a part is too long."""
    lines = [""]
    for part in subtitle.split(SEPARATOR):
        longer = f"{lines[-1]}{SEPARATOR}{part}" if lines[-1] else part
        if len(longer) <= _LETTERS:
            lines[-1] = longer
        else:
            lines += textwrap.wrap(part, _LETTERS) or [""]
    return lines if lines[0] else lines[1:]
