"""Effects as tables: what was run, its largest cells with their intervals; how good an estimate is."""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from interp import stats
from interp.plot import _words as words
from interp.plot._cells import Cells, Index, at, cell_names, cells_of, is_significant, labels, top_cells
from interp.plot._theme import number
from interp.report._html import paragraph, table
from interp.stats._means import MetricFacts, far_baseline, is_difference, metric_facts

_ROWS = 10
_FACTS = ("method", "model", "task", "site", "direction", "ablation", "window", "engine", "seed")
_INTERVALS_NOTE = (
    "Each interval holds for its cell alone. The largest of many cells look larger than they are, "
    "so check a finding on prompts that did not choose it."
)
_AGREEMENT_NOTE = "Over prompt means of the live cells (not 0 in both). Slope 1 is a faithful scale."


def result_table(result: xr.Dataset) -> str:
    """What was run, then one table of the largest cells for each metric."""
    cells = [_cells_table(result, facts) for facts in metric_facts(result)]
    return "\n".join(["<section class='result'>", facts_table(result), *cells, "</section>"])


def facts_table(result: xr.Dataset) -> str:
    """What was run: how, on which model and task, on how many prompts."""
    attrs = result.attrs
    known = {name: str(attrs[name]) for name in _FACTS if str(attrs.get(name, "none")) != "none"}
    known |= {"method": words.method(result), "prompts": words.prompts(result).partition(" prompt")[0]}
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in known.items()
        if value
    )
    return f"<dl>{rows}</dl>"


def _cells_table(result: xr.Dataset, facts: MetricFacts) -> str:
    metric = facts.name if "metric" in result.coords else None
    cells, indices = top_cells(result, _ROWS, metric=metric)
    columns = [(words.noun(result.attrs), at(cells.value, indices))]
    if cells.low is not None and cells.high is not None:
        level = "" if cells.level is None else f"{100 * cells.level:.4g} % "
        columns += [(f"{level}from", at(cells.low, indices)), ("to", at(cells.high, indices))]
    rows = [
        [name, *(number(float(column[i])) for _, column in columns), *_p(cells, index)]
        for i, (name, index) in enumerate(zip(labels(cells, indices), indices))
    ]
    header = ["cell", *(name for name, _ in columns), *([] if cells.p is None else ["p"])]
    note = f"<p class='note'>{_INTERVALS_NOTE}{_tested(cells)}</p>" if len(columns) > 1 else ""
    note += _conclusions(result) if cells.p is not None and metric in (None, _first(result)) else ""
    return table(header, rows, _caption(result, facts, len(rows), cells.unit)) + note


def _p(cells: Cells, index: Index) -> list[str]:
    """p of a cell, with a star where it is significant."""
    if cells.p is None:
        return []
    p = float(cells.p.values[index])
    return ["not tested" if np.isnan(p) else f"{p:.2g}{' *' if is_significant(cells, index) else ''}"]


def _tested(cells: Cells) -> str:
    if cells.p is None or cells.level is None:
        return ""
    return f" p allows for all {cells.family} cells (sign flips, max-|t|); * is below {1 - cells.level:.2g}."


def _first(result: xr.Dataset) -> str | None:
    return str(result["metric"].values.ravel()[0]) if "metric" in result.coords else None


def _conclusions(result: xr.Dataset) -> str:
    """What can and cannot be concluded, in words."""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in stats.summary(result).splitlines())
    return f"<ul class='note'>{lines}</ul>"


def _caption(result: xr.Dataset, facts: MetricFacts, n_rows: int, unit: str) -> str:
    kind = words.heading(result, f"{words.noun(result.attrs)}s")
    text = f"{kind} on {facts.name}: the {n_rows} largest, in {unit}."
    far = far_baseline(result)
    if "prompt" not in result.dims or "clean" not in result or far is None or is_difference(result):
        return text
    means = stats.mean(result)
    if "metric" in means.dims:
        means = means.sel(metric=facts.name)
    clean, other = (number(float(means[name])) for name in ("clean", far))
    against = "of the corrupt prompts" if far == "corrupt" else "with every edge cut"
    return f"{text} Mean {facts.name} of the clean prompts {clean}, {against} {other}."


@dataclass(frozen=True, eq=False)
class Comparison:
    """An estimate and the exact result over the same cells and prompts, as an item of a report."""

    estimate: xr.Dataset
    exact: xr.Dataset


def comparison_tables(pair: Comparison) -> str:
    """Two tables for each metric, and a sentence where the exact effects are too small to compare."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        figures = stats.agreement(pair.estimate, pair.exact)
    notes = [str(each.message) for each in raised if issubclass(each.category, stats.NearlyNoEffect)]
    parts = [paragraph(note) for note in notes]
    several = "metric" in figures.dims
    for facts in metric_facts(pair.exact):
        chosen = figures.sel(metric=facts.name) if several else figures
        parts += [_figures(chosen, facts.name), _worst(pair, facts.name if several else None)]
    return "\n".join(["<section class='result'>", *parts, "</section>"])


def _figures(figures: xr.Dataset, metric: str) -> str:
    names = ("pearson", "spearman", "slope", "relative_l1", "sign")
    rows = [
        [
            str(cells),
            *(f"{float(figures[name].sel(cells=cells)):.3f}" for name in names),
            *_recall(figures, cells),
        ]
        for cells in figures["cells"].values
    ]
    header = [
        "cells",
        *(name.replace("_", " ") for name in names),
        *(f"recall@{k}" for k in figures["k"].values),
    ]
    return table(header, rows, f"Agreement with exact patching on {metric}. {_AGREEMENT_NOTE}")


def _recall(figures: xr.Dataset, cells: Any) -> list[str]:
    values = figures["recall"].sel(cells=cells).values
    return ["" if np.isnan(value) else f"{float(value):.2f}" for value in values]


def _worst(pair: Comparison, metric: str | None) -> str:
    """The cells with the largest error of their mean."""
    exact, estimate = (cells_of(result, metric=metric) for result in (pair.exact, pair.estimate))
    a, b = (part.value.values.astype(float) for part in (estimate, exact))
    errors = np.nan_to_num(np.abs(a - b), nan=-1.0).ravel()
    order = np.argsort(-errors, kind="stable")[: min(_ROWS, int((errors > 0).sum()))]
    indices = [tuple(int(i) for i in np.unravel_index(at, b.shape)) for at in order]
    names = cell_names(exact.value, exact.attrs, indices)
    rows = [[name, *(number(float(x)) for x in (b[i], a[i], a[i] - b[i]))] for name, i in zip(names, indices)]
    caption = f"The {len(rows)} cells on which the estimate errs most, in {exact.unit}."
    return table(["cell", "exact", "estimate", "error"], rows, caption)
