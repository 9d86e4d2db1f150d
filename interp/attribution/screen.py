"""Screening: estimate every cell, measure a few, and say how much the rest can hide.

1. Estimate all cells of the grid (`attribute`).
2. Measure exactly (`patch`) those with the largest |estimate|, and a random sample of the others.
3. A cell counts if its exact mean effect is at least `threshold` in size. The sample says how many such cells
   there can be among those that were never measured: `missed_at_most`, a Clopper-Pearson bound.

Cells that are no-ops by causality are known to be 0; they are neither sampled nor counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp.attribution.attribute import attribute
from interp.attribution.missed import missed_at_most
from interp.engine.items import live_items
from interp.engine.memory import DEFAULT_BUDGET
from interp.engine.plan import token_touched
from interp.methods import Method
from interp.models import Model
from interp.patching import patch
from interp.patching.corruption import Corruption
from interp.patching.job import Job, prepare
from interp.places import Place
from interp.tasks import Task
from interp.tasks.metrics import Metric

GROUPS = ("unverified", "top", "sample", "no-op")


def screen(
    model: Model,
    task: Task,
    site: str | Sequence[str],
    budget: int,
    by: str | Sequence[str] | None = None,
    *,
    method: str | Method = "relp",
    direction: str | None = None,
    metric: Metric | Sequence[Metric] | None = None,
    corruption: str | Corruption = "tokens",
    threshold: float | None = None,
    sample: float = 0.25,
    confidence: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = DEFAULT_BUDGET,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """The most important cells of a grid, measured exactly, and a bound on what was missed.

    budget: cells to measure. sample: the share of it that goes to random cells. threshold: the size of an
    effect that counts, in units of the metric; by default 5 % of the mean |clean - corrupt| gap. confidence:
    of the bound. seed: of the sample. method: of the estimate, as in `attribute`; the rest as in `patch`.

    Returns a Dataset in the dims of `patch`: `estimate`; `value`, the exact effect, NaN where not measured;
    `group` by cell: 0 unverified, 1 top, 2 sample, 3 no-op; the baselines. Attributes: threshold, above
    (cells found at or above it), above_in_sample, sampled, unverified, missed_at_most, confidence.

    Cost: that of the estimate, and of `patch` on `budget` cells.
    """
    if not isinstance(site, str):
        raise ValueError("screen takes one site at a time, such as 'z'.")
    options = {"direction": direction, "corruption": corruption, "metrics": metric}
    with torch.no_grad():
        job = prepare(
            model, task, site, direction, corruption, batch_size, memory,
            by=by, cells=None, window=1, neurons=None, metrics=metric, dry=True,
        )  # fmt: skip
    _check(job, budget, sample, confidence, threshold)
    options |= {"batch_size": batch_size, "memory": memory, "progress": progress}
    estimate = attribute(model, task, site, by, method=method, **options)
    size = np.abs(estimate["value"].mean("prompt").values).ravel()  # in the order of the request's cells
    group = choose_cells(size, _live(job), budget, sample, seed)
    measured = np.flatnonzero((group == 1) | (group == 2))
    words = {"corruption": "ablation", "metrics": "metric"}
    same = {words.get(name, name): value for name, value in options.items()}
    same["ablation"] = "resample" if corruption == "tokens" else corruption
    exact = patch(model, task, cells=[_name(job, int(cell)) for cell in measured], engine=engine, **same)
    gap = float(np.abs(estimate["clean"] - estimate["corrupt"]).mean())
    return _result(
        estimate, exact, group, measured, 0.05 * gap if threshold is None else threshold, confidence
    )


def choose_cells(size: np.ndarray, live: np.ndarray, budget: int, sample: float, seed: int) -> np.ndarray:
    """The group of every cell: the largest |estimates|, a random sample of the other live cells, the rest."""
    group = np.where(live, 0, 3)
    cells = np.flatnonzero(live)
    budget = min(budget, len(cells))
    n_top = budget if budget == len(cells) else budget - round(sample * budget)
    order = cells[np.argsort(-size[cells], kind="stable")]
    group[order[:n_top]] = 1
    rest = np.random.default_rng(seed).permutation(order[n_top:])
    group[rest[: budget - n_top]] = 2
    return group


def _live(job: Job) -> np.ndarray:
    """Whether a cell can matter on any prompt, by the tokens alone."""
    facts, table = job.budget.facts, job.request.table
    items = live_items(facts, table, job.reads, token_touched(facts, job.reads))
    live = np.zeros(len(table), bool)
    live[items.cell] = True
    return live


def _name(job: Job, cell: int) -> str:
    table = job.request.table
    row = int(np.flatnonzero(table.cell == cell)[0])
    indices = {name: int(column[row]) for name, column in table.index.items() if column[row] >= 0}
    return str(Place(job.request.sites[0], **indices))


def _result(
    estimate: xr.Dataset,
    exact: xr.Dataset,
    group: np.ndarray,
    measured: np.ndarray,
    threshold: float,
    confidence: float,
) -> xr.Dataset:
    dims = estimate["value"].dims
    shape = estimate["value"].shape
    value = np.full((shape[0], len(group)), np.nan)
    value[:, measured] = exact["value"].values
    value[:, group == 3] = 0.0
    big = np.zeros(len(group), bool)
    big[measured] = np.abs(value[:, measured].mean(0)) >= threshold
    sampled, unverified = int((group == 2).sum()), int((group == 0).sum())
    above = int(big[group == 2].sum())
    out = estimate.rename(value="estimate")
    out["value"] = (dims, value.reshape(shape))
    out["group"] = (dims[1:], group.reshape(shape[1:]))
    numbers = {
        "threshold": threshold,
        "above": int(big.sum()),
        "above_in_sample": above,
        "sampled": sampled,
        "unverified": unverified,
        "missed_at_most": missed_at_most(above, sampled, sampled + unverified, confidence),
        "confidence": confidence,
        "groups": ", ".join(f"{number} {name}" for number, name in enumerate(GROUPS)),
        "method": f"screen ({estimate.attrs['method']})",
        "engine": exact.attrs["engine"],
        "convention": exact.attrs["convention"],
    }
    return out.assign_attrs(numbers)


def _check(job: Job, budget: int, sample: float, confidence: float, threshold: float | None) -> None:
    if budget < 1:
        raise ValueError(f"budget is {budget}; measure at least 1 cell.")
    if not 0 <= sample <= 1:
        raise ValueError(f"sample is {sample}; it is the share of the budget for random cells, 0 to 1.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1.")
    if threshold is not None and not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive, in units of the metric.")
    if len(job.metrics) != 1:
        raise ValueError("screen takes one metric at a time.")
