"""The frame of every figure: title, subtitle, height, margins, and its theme.

A title says what is drawn, a subtitle how it was made. Figures have a height, which their content gives,
and no width, so that they fill their container.
"""

from __future__ import annotations

import html
import textwrap

import plotly.graph_objects as go

from interp.plot._theme import WIDTH, check, escape, own, template, themed

SEPARATOR = " · "  # of the parts of a subtitle
_LETTERS = 118  # in a line of a subtitle on a page of the usual width
_SIDES = 40  # pixels beside a subtitle


def frame(
    fig: go.Figure,
    title: str,
    subtitle: str,
    *,
    theme: str,
    height: float | int,
    left: float | int,
    right: float | int,
    below: float | int,
    above: float | int = 0,
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


def refitted(fig: go.Figure, width: int | None) -> go.Figure:
    """A copy of a figure whose subtitle is set for an image of a width."""
    text = fig.layout.title.subtitle.text
    if width is None or not own(fig) or not text:
        return fig
    lines = text.split("<br>")
    whole = html.unescape(SEPARATOR.join(line for line in lines if line.strip()))
    again = _lines(whole, int(_LETTERS * max(width - _SIDES, 100) / (WIDTH - _SIDES)))
    more = 16 * (max(len(again), 2) - max(len(lines), 2))
    title = {"text": fig.layout.title.text, "subtitle": {"text": _shown(again)}}
    copy = go.Figure(fig).update_layout(title=title)
    return copy.update_layout(height=fig.layout.height + more, margin_t=fig.layout.margin.t + more)


def titles(title: str, subtitle: str) -> tuple[dict, int]:
    """layout.title with its subtitle in lines for a page of `WIDTH`, and the pixels that both need."""
    lines = _lines(subtitle, _LETTERS)
    layout = {
        "text": f"<b>{escape(title)}</b>",
        "x": 0,
        "xref": "container",
        "pad": {"l": 20, "t": 14},
        "yref": "container",
        "y": 1,
        "yanchor": "top",
        "subtitle": {"text": _shown(lines)},
    }
    return layout, 60 + 16 * len(lines)


def _shown(lines: list[str]) -> str:
    """Lines as plotly takes them; a line alone would sink, so that another is below it."""
    return "<br>".join(escape(line) for line in (lines if len(lines) > 1 else [*lines, " "]))


def _lines(subtitle: str, letters: int) -> list[str]:
    """A subtitle in lines that break between its parts, or between words where a part is too long."""
    lines = [""]
    for part in subtitle.split(SEPARATOR):
        longer = f"{lines[-1]}{SEPARATOR}{part}" if lines[-1] else part
        if len(longer) <= letters:
            lines[-1] = longer
        else:
            lines += textwrap.wrap(part, letters) or [""]
    return lines if lines[0] else lines[1:]
