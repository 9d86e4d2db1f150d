"""HTML of the single items of a report: headings, paragraphs, figures, token strips."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from interp.plot.export import CONFIG
from interp.plot.tokens import TokenStrip


def heading(text: str) -> str:
    """A second-level heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Paragraphs of plain text, parted at empty lines."""
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    return "\n".join(f"<p>{html.escape(part)}</p>" for part in parts)


def strip(tokens: TokenStrip) -> str:
    """Coloured tokens."""
    return f"<div class='wide'>{tokens.html()}</div>"


def figure(fig: go.Figure, caption: str | None, number: int, library: bool | str) -> str:
    """A plotly figure with its number and a caption; `library` is what plotly calls include_plotlyjs."""
    drawing = fig.to_html(
        full_html=False,
        include_plotlyjs=library,
        div_id=f"figure-{number}",
        config=CONFIG,
    )
    words = caption if caption is not None else _title(fig)
    return (
        f"<figure><div class='wide'>{drawing}</div>"
        f"<figcaption><b>Figure {number}.</b> {html.escape(words)}</figcaption></figure>"
    )


def _title(fig: go.Figure) -> str:
    """The figure's title as plain text."""
    text = (fig.layout.title.text or "").replace("<b>", "").replace("</b>", "").replace("<br>", " ")
    return f"{html.unescape(text)}." if text else ""
