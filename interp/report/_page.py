"""Put items one below the other on a page, with the provenance of every result at the end."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from interp.files import write_text
from interp.plot._tokens import TokenStrip
from interp.report._circuits import circuit_tables
from interp.report._effects import Comparison, comparison_tables, result_table
from interp.report._html import CSS, figure, heading, paragraph, strip
from interp.report._probes import probe_table
from interp.report._steering import generations_tables, sweep_table

_TABLES = {  # by the method of a result; all others are results of interp.patch and its estimates
    "evaluate": circuit_tables,
    "generations": generations_tables,
    "probe": probe_table,
    "sweep": sweep_table,
}


def write(items: Sequence[Any], path: str | Path, title: str = "Report", cdn: bool = False) -> Path:
    """Write the page and return its path. It needs no network, unless `cdn` is set.

    items: plotly Figures, or (Figure, "caption"); results of every kind (Datasets) and Comparisons, shown
    as tables; strings, shown as paragraphs; ("heading", "text"); TokenStrips. Text is
    shown as it is: no HTML, no Markdown.
    """
    blocks = [_block(item, number, cdn, items) for number, item in enumerate(items)]
    results = [item for item in items if isinstance(item, xr.Dataset)]
    body = "\n".join(blocks)
    page = (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n{footer(results)}\n</main>\n</body>\n</html>\n"
    )
    return write_text(Path(path), page)


def _block(item: Any, number: int, cdn: bool, items: Sequence[Any]) -> str:
    if isinstance(item, str):
        return paragraph(item)
    if isinstance(item, TokenStrip):
        return strip(item)
    if isinstance(item, xr.Dataset):
        return _TABLES.get(str(item.attrs.get("method")), result_table)(item)
    if isinstance(item, Comparison):
        return comparison_tables(item)
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
        if item[0] == "heading":
            return heading(item[1])
        if isinstance(item[0], go.Figure):
            return _numbered(item[0], item[1], number, cdn, items)
    if isinstance(item, go.Figure):
        return _numbered(item, None, number, cdn, items)
    raise ValueError(
        f"item {number} is a {type(item).__name__}. A report takes plotly Figures, (Figure, 'caption'), "
        "results (xarray Datasets), Comparisons, strings, ('heading', 'text') and token strips."
    )


def _numbered(fig: go.Figure, caption: str | None, number: int, cdn: bool, items: Sequence[Any]) -> str:
    """A figure with its number on the page; the first one brings plotly.js."""
    before = sum(isinstance(_first(item), go.Figure) for item in items[:number])
    library = ("cdn" if cdn else True) if before == 0 else False
    return figure(fig, caption, before + 1, library)


def _first(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) and item else item


_FACTS = (
    "method", "model", "task", "task_fingerprint", "site", "direction", "metric", "ablation", "window",
    "engine", "ablation", "granularity", "seed",
)  # fmt: skip


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
    facts = [(name, str(result.attrs[name])) for name in _FACTS if name in result.attrs]
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts if value)


def _versions(text: str) -> str:
    try:
        known = json.loads(text)
    except ValueError:
        return f"versions {text}"
    return ", ".join(f"{name} {version}" for name, version in known.items())
