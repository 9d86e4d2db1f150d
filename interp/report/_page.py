"""Put items one below the other on a page, with the provenance of every result at the end."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp._verbs import verb
from interp.files import write_text
from interp.plot._circuit import Drawable
from interp.plot._export import require_page
from interp.plot._theme import follow, ground, themed
from interp.plot._tokens import TokenStrip
from interp.report._circuits import circuit_tables, curve_tables, edge_table
from interp.report._effects import Comparison, comparison_tables, facts_table, result_table
from interp.report._html import CSS, figure, heading, paragraph, strip
from interp.report._steering import generations_tables, probe_table, sweep_table
from interp.results import facts

_TABLES = {  # by the method of a result; all others are effects of cells
    "curve": curve_tables,
    "evaluate": circuit_tables,
    "generations": generations_tables,
    "probe": probe_table,
    "sweep": sweep_table,
}


@verb
def write(
    items: Sequence[Any],
    path: str | Path,
    title: str = "Report",
    cdn: bool = False,
    *,
    theme: str = "auto",
) -> Path:
    """Write the page and return its path. It needs no network, unless `cdn` is set.

    items: plotly Figures, or (Figure, "caption"); results of every kind (Datasets) and Comparisons, shown
    as tables; Circuits, as lists of their edges; strings, as paragraphs; ("heading", "text"); TokenStrips.
    Text is shown as it is: no HTML, no Markdown. cdn: load plotly.js from its network, for a page of some kB
    and not 4.8 MB.
    theme: "light", "dark", or "auto": as the reader's system says. From 1280 pixels on, the table of a result
    stands beside the figure before it.

    Raises ValueError for other items and for a path that does not end in .html, before anything is written.

    Example:
        >>> import interp, tempfile
        >>> page = interp.report.write(["A sentence."], f"{tempfile.mkdtemp()}/report.html", title="Heads")
        >>> "<h1>Heads</h1>" in page.read_text()
        True
    """
    require_page(path)
    items = [_themed(item, theme) for item in items]
    blocks = [_block(item, number, cdn, items) for number, item in enumerate(items)]
    results = [item for item in items if isinstance(item, xr.Dataset)]
    body = "\n".join(blocks)
    page = (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{ground(theme)}{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n{footer(results)}\n</main>\n"
        f"{_following(items, theme)}</body>\n</html>\n"
    )
    return write_text(Path(path), page)


def _themed(item: Any, theme: str) -> Any:
    """An item with its figure or strip in the theme of the page."""
    if isinstance(item, tuple):
        return tuple(_themed(part, theme) for part in item)
    if theme != "auto" and isinstance(item, TokenStrip):
        return replace(item, theme=theme)
    return themed(item, theme) if isinstance(item, go.Figure) else item


def _following(items: Sequence[Any], theme: str) -> str:
    """The script by which figures follow the reader's system, where there are any."""
    drawn = any(isinstance(_first(item), go.Figure) for item in items)
    return f"{follow()}\n" if drawn and theme == "auto" else ""


def _block(item: Any, number: int, cdn: bool, items: Sequence[Any]) -> str:
    if isinstance(item, str):
        return paragraph(item)
    if isinstance(item, TokenStrip):
        return strip(item)
    if isinstance(item, xr.Dataset):
        return _dataset(item)
    if isinstance(item, Comparison):
        return comparison_tables(item)
    if isinstance(item, Drawable):
        return edge_table(item)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
        if item[0] == "heading":
            return heading(item[1])
        if isinstance(item[0], go.Figure):
            return _numbered(item[0], item[1], number, cdn, items)
    if isinstance(item, go.Figure):
        return _numbered(item, None, number, cdn, items)
    raise ValueError(
        f"item {number} is a {type(item).__name__}. A report takes plotly Figures, (Figure, 'caption'), "
        "results (xarray Datasets), Comparisons, Circuits, strings, ('heading', 'text') and token strips."
    )


def _dataset(result: xr.Dataset) -> str:
    """The tables of a result; what is no effect and has no tables of its own is described by its facts."""
    special = _TABLES.get(str(result.attrs.get("method")))
    if special is not None:
        return special(result)
    return result_table(result) if {"value", "estimate"} & set(result.data_vars) else facts_table(result)


def _numbered(fig: go.Figure, caption: str | None, number: int, cdn: bool, items: Sequence[Any]) -> str:
    """A figure with its number on the page; the first one brings plotly.js."""
    before = sum(isinstance(_first(item), go.Figure) for item in items[:number])
    library = ("cdn" if cdn else True) if before == 0 else False
    return figure(fig, caption, before + 1, library)


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) and item else item


def footer(results: Sequence[xr.Dataset]) -> str:
    """One line a result, then the conventions and the versions, each once; empty without results."""
    if not results:
        return ""
    lines = dict.fromkeys(_line(result) for result in results)
    conventions = dict.fromkeys(str(r.attrs["convention"]) for r in results if r.attrs.get("convention"))
    versions = dict.fromkeys(_versions(str(r.attrs["versions"])) for r in results if r.attrs.get("versions"))
    items = "".join(f"<li>{html.escape(text)}</li>" for text in (*lines, *conventions, *versions) if text)
    return f"<footer><h2>Where the numbers come from</h2><ul>{items}</ul></footer>"


def _line(result: xr.Dataset) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts(result).items())


def _versions(text: str) -> str:
    try:
        known = json.loads(text)
    except ValueError:
        return f"versions {text}"
    return ", ".join(f"{name} {version}" for name, version in known.items())
