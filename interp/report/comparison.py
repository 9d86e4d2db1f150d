"""How good an estimate is: the figures of agreement, and the cells on which it errs most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from interp import stats
from interp.plot.cells import cell_names
from interp.plot.drawn import drawn
from interp.plot.labels import number
from interp.report.tables import table
from interp.stats.metric_facts import metric_facts

_ROWS = 10
_NOTE = "Over prompt means of the live cells, those that are not 0 in both. Slope 1 is a faithful scale."


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
    return table(header, rows, f"Agreement with exact patching on {metric}. {_NOTE}")


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
