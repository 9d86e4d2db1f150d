"""Screening: estimate every cell, measure a few, and say how much the rest can hide.

1. Estimate all cells of the grid (`attribute`).
2. Measure exactly (`patch`) those with the largest |estimate|, and a random sample of the others. With
   several metrics a cell is as large as its largest estimate, in units of each metric's threshold.
3. A cell counts if its exact mean effect is at least `threshold` in size. The sample says how many such cells
   there can be among those that were never measured: `missed_at_most`, a Clopper-Pearson bound.

Cells that are no-ops by causality are known to be 0; they are neither sampled nor counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
import torch
import xarray as xr

from interp._verbs import verb
from interp.ablation import Ablation
from interp.attribution._estimate import attribute
from interp.engine.cells import SPAN
from interp.engine.items import live_items
from interp.engine.plan import token_touched
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.grid import Grid, make_grid
from interp.methods import Method
from interp.models import Model
from interp.patching import patch
from interp.places import Place
from interp.stats._shares import check_level, share_at_most
from interp.tasks import Task

GROUPS = ("unverified", "top", "sample", "no-op")


@verb
def screen(
    model: Model,
    task: Task,
    site: str | Sequence[str],
    budget: int,
    by: str | Sequence[str] | None = None,
    *,
    method: str | Method = "relp",
    threshold: float | None = None,
    sample: float = 0.25,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    level: float = 0.95,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """The most important cells of a grid, measured exactly, and a bound on what was missed.

    budget: cells to measure. method: of the estimate, as in `attribute`. threshold: the size of an effect
    that counts, in units of the metric; by default 5 % of the mean |clean - corrupt| gap. sample: the share
    of the budget that goes to random cells. level: the confidence of the bound. seed: of the sample. The rest
    as in `patch`; several metrics share the cells that are measured.

    Returns a Dataset in the dims of `patch`: `estimate`; `value`, the exact effect, NaN where not measured;
    `group` by cell: 0 unverified, 1 top, 2 sample, 3 no-op; the baselines. Attributes: threshold, above
    (cells found at or above it), above_in_sample, sampled, unverified, missed_at_most, level; of several
    metrics, threshold, above, above_in_sample and missed_at_most are listed in their order.

    Cost: that of the estimate, and of `patch` on `budget` cells. Raises ValueError as these do.

    Example:
        >>> from interp.attribution import screen
        >>> model = interp.load("tiny-ioi")
        >>> result = screen(model, interp.tasks.ioi(model, n=4), "z", budget=6, progress=False)
        >>> result["value"].dims, int(result["value"].notnull().any("prompt").sum())
        (('prompt', 'layer', 'head'), 6)
    """
    check_level(level)
    if not isinstance(site, str):
        raise ValueError("screen takes one site at a time, such as 'z'.")
    with torch.no_grad():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
            batch_size=batch_size, memory=memory, engine=engine, progress=progress,
        )  # fmt: skip
        grid = make_grid(experiment.facts, task, site, by, None)
        _check(budget, sample, threshold)
        live = _live(experiment, grid)
    options = {
        "ablation": ablation, "direction": direction, "metric": metric, "batch_size": batch_size,
        "memory": memory, "engine": engine, "progress": progress,
    }  # fmt: skip
    estimate = attribute(model, task, site, by, method=method, **options)
    thresholds = _thresholds(experiment, estimate, threshold)
    size = (np.abs(_cells(estimate["value"]).mean(0)) / thresholds).max(
        -1
    )  # in the order of the grid's cells
    group = choose_cells(size, live, budget, sample, seed)
    measured = np.flatnonzero((group == 1) | (group == 2))
    exact = patch(model, task, cells=[_name(grid, int(cell)) for cell in measured], **options)
    return _result(estimate, exact, group, thresholds, level).assign_attrs(seed=seed)


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


def missed_at_most(above: int, sampled: int, population: int, level: float) -> int:
    """Upper bound on the cells above the threshold among those never measured.

    Of `population` cells `sampled` were drawn at random and measured, and `above` of them lie above the
    threshold. The share of the population above it is, with the given confidence, at most the one-sided
    Clopper-Pearson bound (drawing without replacement only makes it safer).
    """
    if not 0 <= above <= sampled <= population:
        raise ValueError(
            f"{above} cells above of {sampled} sampled of {population}: each must be at most the next."
        )
    unmeasured = population - sampled
    share = float(share_at_most(above, sampled, level))
    return min(unmeasured, max(0, floor(share * population) - above))


def _live(experiment: Experiment, grid: Grid) -> np.ndarray:
    """Whether a cell can matter on any prompt, by the tokens alone."""
    facts, table = experiment.facts, grid.table
    reads = experiment.reads(experiment.runs())
    live = np.full(len(table), not facts.causal)
    if facts.causal:
        live[live_items(facts, table, reads, token_touched(facts, reads)).cell] = True
    return live


def _name(grid: Grid, cell: int) -> str:
    row = int(np.flatnonzero(grid.table.cell == cell)[0])
    indices = {name: int(column[row]) for name, column in grid.table.index.items() if column[row] >= 0}
    name = str(Place(grid.sites[0], **indices))
    span = SPAN - int(grid.table.column("pos")[row])
    return f"{name}@{grid.spans[span]}" if span >= 0 else name


def _cells(effects: xr.DataArray) -> np.ndarray:
    """[prompt, cell, metric] of a grid's effects."""
    values = effects.values if "metric" in effects.dims else effects.values[..., None]
    return values.reshape(len(values), -1, values.shape[-1])


def _thresholds(experiment: Experiment, estimate: xr.Dataset, threshold: float | None) -> np.ndarray:
    """By metric."""
    gaps = np.abs(estimate["clean"] - estimate["corrupt"]).mean("prompt").values.reshape(-1)
    chosen = 0.05 * gaps if threshold is None else np.full(len(experiment.metric), float(threshold))
    if not (chosen > 0).all():
        raise ValueError(
            "the two runs have the same metric on every prompt, so there is no gap to take 5 % of. "
            "Give threshold=, in units of the metric."
        )
    return chosen


def _result(
    estimate: xr.Dataset, exact: xr.Dataset, group: np.ndarray, thresholds: np.ndarray, level: float
) -> xr.Dataset:
    dims, shape = estimate["value"].dims, estimate["value"].shape
    measured = np.flatnonzero((group == 1) | (group == 2))
    value = np.full((shape[0], len(group), len(thresholds)), np.nan)
    value[:, measured] = _cells(exact["value"])
    value[:, group == 3] = 0.0
    big = np.zeros((len(group), len(thresholds)), bool)
    big[measured] = np.abs(value[:, measured].mean(0)) >= thresholds
    sampled, unverified = int((group == 2).sum()), int((group == 0).sum())
    above = big[group == 2].sum(0).tolist()
    missed = [missed_at_most(each, sampled, sampled + unverified, level) for each in above]
    out = estimate.rename(value="estimate")
    out["value"] = (dims, value.reshape(shape))
    over = tuple(dim for dim in dims if dim not in ("prompt", "metric"))
    out["group"] = (over, group.reshape([estimate.sizes[dim] for dim in over]))
    return out.assign_attrs(
        threshold=_listed(thresholds.tolist()),
        above=_listed(big.sum(0).tolist()),
        above_in_sample=_listed(above),
        sampled=sampled,
        unverified=unverified,
        missed_at_most=_listed(missed),
        level=level,
        groups=", ".join(f"{number} {name}" for number, name in enumerate(GROUPS)),
        method=f"screen ({estimate.attrs['method']})",
        engine=exact.attrs["engine"],
        convention=exact.attrs["convention"],
    )


def _listed(numbers: list) -> int | float | str:
    """A number, or those of several metrics in one string."""
    return numbers[0] if len(numbers) == 1 else ", ".join(f"{number:.6g}" for number in numbers)


def _check(budget: int, sample: float, threshold: float | None) -> None:
    if budget < 1:
        raise ValueError(f"budget is {budget!r}; measure at least 1 cell, a whole number.")
    if not 0 <= sample <= 1:
        raise ValueError(f"sample is {sample}; it is the share of the budget for random cells, 0 to 1.")
    if threshold is not None and not threshold > 0:
        raise ValueError(f"threshold is {threshold}; it must be positive, in units of the metric.")
