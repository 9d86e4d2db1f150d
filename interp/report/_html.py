"""HTML of the single items of a report, escaped: headings, paragraphs, figures, tables, and its style."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from interp.plot._export import CONFIG, title_of
from interp.plot._tokens import TokenStrip

CSS = """
body { margin: 0; font: 16px/1.6 Inter, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1720px; margin: 0 auto; padding: 32px 24px 64px; display: grid; column-gap: 40px;
  grid-template-columns: minmax(0, 1fr); align-items: start; }
main > * { grid-column: 1 / -1; }
@media (min-width: 1280px) {
  main { grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
  main > figure:has(+ section.result) { grid-column: 1; }
  main > figure + section.result { grid-column: 2; }
}
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 24px; }
h2 { font-size: 20px; margin: 40px 0 8px; }
p { max-width: 46em; margin: 8px 0 16px; }
.wide { overflow-x: auto; }
figure { margin: 24px 0 32px; }
figcaption { color: var(--muted); font-size: 14px; margin-top: 4px; max-width: 60em; }
section.result { margin: 24px 0 32px; }
dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 12px; font-size: 14px; }
dl div { display: flex; gap: 6px; }
dl dt { color: var(--muted); }
dl dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 4px 20px 4px 0; border-bottom: 1px solid var(--lines); text-align: right;
  white-space: pre; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
table.texts td, table.texts th { text-align: left; vertical-align: top; white-space: normal;
  min-width: 10em; max-width: 24em; }
.note { color: var(--muted); font-size: 14px; margin-top: 4px; }
footer { margin-top: 56px; border-top: 1px solid var(--lines); color: var(--muted); font-size: 13px; }
footer h2 { font-size: 15px; color: var(--ink); margin: 16px 0 4px; }
footer ul { margin: 0; padding-left: 18px; }
footer li { overflow-wrap: anywhere; }
@media print { main { max-width: none; padding: 0; } }
"""


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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A caption and an HTML table; the first column is text, the others are numbers."""
    head = "".join(f"<th scope='col'>{html.escape(text)}</th>" for text in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f"<p class='note'>{html.escape(caption)}</p>\n<div class='wide'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(fig: go.Figure, caption: str | None, number: int, library: bool | str) -> str:
    """A plotly figure with its number and a caption; `library` is what plotly calls include_plotlyjs."""
    drawing = fig.to_html(
        full_html=False,
        include_plotlyjs=library,
        div_id=f"figure-{number}",
        config=CONFIG,
    )
    title = title_of(fig)
    words = caption if caption is not None else f"{title}." if title else ""
    return (
        f"<figure><div class='wide'>{drawing}</div>"
        f"<figcaption><b>Figure {number}.</b> {html.escape(words)}</figcaption></figure>"
    )
