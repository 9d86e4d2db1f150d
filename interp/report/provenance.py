"""The end of a report: where its numbers came from."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import xarray as xr

_FACTS = (
    "method", "model", "task", "task_fingerprint", "site", "direction", "metric", "corruption", "window",
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
