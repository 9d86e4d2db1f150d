"""Effects as tables: what was run, its largest cells with their intervals; how good an estimate is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from interp import stats
from interp.plot._cells import at, cell_names, drawn, labels, top_cells
from interp.plot._theme import number
from interp.stats._means import MetricFacts, metric_facts

_ROWS = 10
_FACTS = ("model", "task", "site", "direction", "ablation", "window", "engine", "seed")
_INTERVALS_NOTE = (
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
    note = f"<p class='note'>{_INTERVALS_NOTE}</p>" if len(columns) > 1 else ""
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


_AGREEMENT_NOTE = "Over prompt means of the live cells (not 0 in both). Slope 1 is a faithful scale."


@dataclass(frozen=True, eq=False)
class Comparison:
    """An estimate and the exact result over the same cells and prompts, as an item of a report."""

    estimate: xr.Dataset
    exact: xr.Dataset


def comparison_tables(pair: Comparison) -> str:
    """Two tables for each metric."""
    found = stats.agreement(pair.estimate, pair.exact)
    parts = []
    for facts in metric_facts(pair.exact):
        several = "metric" in found.dims
        one = found.sel(metric=facts.name) if several else found
        parts += [_figures(one, facts.name), _worst(pair, facts.name if several else None)]
    return "\n".join(["<section class='result'>", *parts, "</section>"])


def _figures(found: xr.Dataset, metric: str) -> str:
    names = ("pearson", "spearman", "slope", "relative_l1", "sign")
    rows = [
        [
            str(cells),
            *(f"{float(found[name].sel(cells=cells)):.3f}" for name in names),
            *_recall(found, cells),
        ]
        for cells in found["cells"].values
    ]
    header = [
        "cells",
        *(name.replace("_", " ") for name in names),
        *(f"recall@{k}" for k in found["k"].values),
    ]
    return table(header, rows, f"Agreement with exact patching on {metric}. {_AGREEMENT_NOTE}")


def _recall(found: xr.Dataset, cells: Any) -> list[str]:
    values = found["recall"].sel(cells=cells).values
    return ["" if np.isnan(value) else f"{float(value):.2f}" for value in values]


def _worst(pair: Comparison, metric: str | None) -> str:
    """The cells with the largest error of their mean."""
    exact, estimate = (drawn(one, metric=metric) for one in (pair.exact, pair.estimate))
    a, b = (part.value.values.astype(float) for part in (estimate, exact))
    errors = np.nan_to_num(np.abs(a - b), nan=-1.0).ravel()
    order = np.argsort(-errors, kind="stable")[: min(_ROWS, int((errors > 0).sum()))]
    indices = [tuple(int(i) for i in np.unravel_index(at, b.shape)) for at in order]
    names = cell_names(exact.value, exact.attrs, indices)
    rows = [[name, *(number(float(x)) for x in (b[i], a[i], a[i] - b[i]))] for name, i in zip(names, indices)]
    caption = f"The {len(rows)} cells on which the estimate errs most, in {exact.unit}."
    return table(["cell", "exact", "estimate", "error"], rows, caption)
