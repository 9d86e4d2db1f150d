"""A result as tables: what was run, and its largest cells with their intervals."""

from __future__ import annotations

import html
from collections.abc import Sequence

import xarray as xr

from interp import stats
from interp.plot.labels import number
from interp.plot.top import at, labels, top_cells
from interp.stats.metric_facts import MetricFacts, metric_facts

_ROWS = 10
_FACTS = ("model", "task", "site", "direction", "corruption", "window", "engine", "seed")
_NOTE = (
    "Each interval holds for its cell alone. The largest of many cells look larger than they are, "
    "so check a finding on prompts that did not choose it."
)


def result_table(result: xr.Dataset) -> str:
    """What was run, then one table of the largest cells for each metric."""
    cells = [_cells_table(result, facts) for facts in metric_facts(result)]
    return "\n".join(["<section class='result'>", _facts_table(result), *cells, "</section>"])


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


def _facts_table(result: xr.Dataset) -> str:
    known = [(name, str(result.attrs[name])) for name in _FACTS if name in result.attrs]
    prompts = result.sizes.get("prompt", result.attrs.get("n_prompts"))
    known += [("prompts", str(prompts))] if prompts is not None else []
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>" for name, value in known if value
    )
    return f"<dl>{rows}</dl>"


def _cells_table(result: xr.Dataset, facts: MetricFacts) -> str:
    metric = facts.name if "metric" in result.coords else None
    cells, indices = top_cells(result, _ROWS, metric=metric)
    columns = [("effect", at(cells.value, indices))]
    if cells.low is not None and cells.high is not None:
        columns += [("95 % from", at(cells.low, indices)), ("to", at(cells.high, indices))]
    rows = [
        [name, *(number(float(column[i])) for _, column in columns)]
        for i, name in enumerate(labels(cells, indices))
    ]
    made = table(
        ["cell", *(name for name, _ in columns)], rows, _caption(result, facts, len(rows), cells.unit)
    )
    note = f"<p class='note'>{_NOTE}</p>" if len(columns) > 1 else ""
    return made + note


def _caption(result: xr.Dataset, facts: MetricFacts, n_rows: int, unit: str) -> str:
    words = f"The {n_rows} largest effects on {facts.name}, in {unit}."
    if "prompt" not in result.dims or "clean" not in result:
        return words
    means = stats.mean(result)
    if "metric" in means.dims:
        means = means.sel(metric=facts.name)
    clean, corrupt = (number(float(means[name])) for name in ("clean", "corrupt"))
    return f"{words} Mean {facts.name} of the clean prompts {clean}, of the corrupt prompts {corrupt}."
