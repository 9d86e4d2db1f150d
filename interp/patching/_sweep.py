"""Exact activation patching: run the model with one activation replaced, for every cell of a grid.

1. Take a clean and a corrupt prompt of equal length; measure the metric on both runs.
2. For every cell (a site at a layer, and a position, head or neuron) run one with that activation from the
   other. Denoising puts clean into corrupt (is the cell sufficient?), noising corrupt into clean (is it
   necessary?).
3. The effect is metric(patched) - metric(corrupt), or metric(clean) - metric(patched): positive means that
   the cell helps the metric.

Wang et al. 2022 (2211.00593), Zhang & Nanda 2023 (2309.16042), Heimersheim & Nanda 2024 (2404.15255).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp import results, stores
from interp._verbs import verb
from interp.ablation import Ablation, Constants, Optimal
from interp.engine.cells import Cells
from interp.engine.plan import Plan, make_plan
from interp.engine.readout import Reads
from interp.engine.reference import Reference
from interp.engine.runs import Mix, Runs
from interp.engine.trust import choose
from interp.engine.wavefront import Prepared
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.grid import Grid, Sheet, make_grid
from interp.models import Model, expert_points, unsupported, weights
from interp.patching._features import FeatureSweep, asked, require_alone
from interp.sae import Dictionary
from interp.tasks import Task
from interp.tasks.check import warn_unsolved

_LISTED = 64  # listed cells in a unit of work, with a store


@verb
def patch(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    cells: Sequence[str | Sequence[str]] | None = None,
    window: int = 1,
    neurons: Sequence[int] | None = None,
    features: Dictionary | None = None,
    source: Model | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Exact effect of patching every cell of a grid.

    model: a TransformerLens model in eval mode; left as found.
    task: clean and corrupt prompts, answers, metric.
    site: `resid_pre resid_mid resid_post attn_out mlp_out` (default dims layer, pos), `z q k v pattern`
        (layer, head), `post` (layer, neuron: MLP activations), in mixtures of experts `router expert_out`
        (layer, expert), or several sites with the same dims.
    by: the dims of the grid: "layer" and any axes of the site (pos; pos, head; head, dst, src; pos, neuron;
        pos, expert). Along an axis left out, a cell covers everything. "span" in the place of "pos": the
        task's named positions (`task.spans`), all of a name together; NaN for prompts without one.
    cells: instead of a grid, a list of cells by name ("L9H6", "L9H6.q@3", "L3.resid_pre@verb", "L2N17",
        "L2E3"); a list within the list is patched together.
    window: patch the site at this many layers at once, from `layer` on.
    neurons: which neurons, for dims with "neuron".
    features: a dictionary (`interp.sae.load`), whose place is the site: cells are its features, and its
        error. by: "feature" (the default), ("pos", "feature"), ("span", "feature"); every feature that
        differs anywhere. cells: "L12.resid_pre.F431@5", "L12.resid_pre.error". A feature changes the site
        by (φ' - φ) times its decoder row (2403.19647); zero and mean ablation are of φ, and of the error.
        source: another model of the same shape (a checkpoint, a tuned copy, an adapter merged or not): the
        other run is its run, so that the sweep asks where two models differ. On the same prompts with
        `task.without_corrupt()`; `corrupt` is then the model's own metric, `clean` that of source (noise:
        the other way round). ablation: "resample" (the other run), "gaussian", "zero", "mean", or settings
        of `interp.ablation`. direction: "denoise" (the default) or "noise"; zero and mean ablation only
        "noise". metric: one or several; the task's own by default. batch_size: counterfactual runs at once
        at most; by default as many as `memory` allows. memory: bytes to use above the model's own. store: a
        zarr folder, written as the sweep goes; the same call after a kill resumes. Units that were lost or
        damaged are measured again; another process on it is refused. engine: "auto" (fast if it proves
        itself on this model, else reference), "fast" or "reference". progress: one bar, counting
        counterfactual runs.

    Returns a Dataset: `value`, the effect in units of the metric, with dims prompt, (site,) the dims of `by`,
    (metric); `clean` and `corrupt`, the raw metric of both runs by prompt; `clean_right`, 1 where the clean
    run gives the answers more probability than the wrong answers (whatever the metric), else 0. For metrics
    where lower is better (KL, Rank, Loss) the effect's sign is turned, so that positive always helps.

    Cost: two forwards per prompt, and for each cell that can matter the layers after it at the positions
    after it (`interp.plan` counts); engine "reference" one forward per cell and prompt.
    Raises ValueError for anything wrong with the request, before the first forward pass. Warns
    `UnsolvedTask`, with the accuracy, when fewer than half of the clean runs are right.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=4), "z", progress=False)
        >>> result["value"].dims, result["value"].shape
        (('prompt', 'layer', 'head'), (4, 3, 4))
        >>> bool(result["value"].mean("prompt").sel(layer=0, head=0) > 1)
        True
    """
    with torch.inference_mode():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
            memory=memory, store=store, engine=engine, progress=progress, source=source,
        )  # fmt: skip
        if features is not None:
            require_alone(site, window, neurons, store)
            result = FeatureSweep(experiment, features, asked(experiment, features, by, cells)).run()
            warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
            return result
        sweep = Sweep.of(experiment, site, by, cells, window, neurons)
        sites, other = sweep.grid.all_sites, model if source is None else source
        with expert_points(model, sites), expert_points(other, sites):
            result = sweep.run()
    warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
    return result


@verb
def plan(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    cells: Sequence[str | Sequence[str]] | None = None,
    window: int = 1,
    neurons: Sequence[int] | None = None,
    source: Model | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
) -> Plan:
    """What `patch` with the same arguments would cost: cells, no-ops, FLOPs, memory, engine. No forward pass.

    (For mean ablation the means are not computed either.) Raises the same errors as `patch`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> plan = interp.plan(model, interp.tasks.ioi(model, n=4), "z")
        >>> plan.cells, plan.prompts
        (12, 4)
    """
    with torch.inference_mode():
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
            memory=memory, engine=engine, source=source,
        )  # fmt: skip
        sweep = Sweep.of(experiment, site, by, cells, window, neurons, dry=True)
        reason = unsupported(model) or (source is not None and unsupported(source))
        chosen = "reference" if engine == "reference" or reason else "fast"
        gated = bool(getattr(model.cfg, "gated_mlp", False))
        return make_plan(
            experiment.facts, gated, sweep.grid.table, sweep.reads, experiment.room, chosen, reason or ""
        )


@dataclass(frozen=True, eq=False)
class _Unit:
    """A block of prompts, one site, and a span of the first dim of its cells."""

    number: int
    prompts: slice
    site: int
    first: slice
    cells: np.ndarray


@dataclass(frozen=True, eq=False)
class Sweep:
    """A grid of an experiment; `runs` holds each prompt's draws side by side."""

    experiment: Experiment
    grid: Grid
    runs: Runs

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        site: str | Sequence[str] | None,
        by: str | Sequence[str] | None,
        cells: Sequence[str | Sequence[str]] | None,
        window: int,
        neurons: Sequence[int] | None,
        dry: bool = False,
    ) -> Sweep:
        """The arguments of `patch`, checked; no forward pass, but for the means of a mean ablation."""
        if isinstance(experiment.contrast.ablation, Constants):
            raise ValueError(
                "constants stand for what the writers of a circuit write, and a patch replaces activations. "
                "Use ablation='resample', 'gaussian', 'zero' or 'mean'."
            )
        grid = make_grid(experiment.facts, experiment.task, site, by, cells, window, neurons)
        if isinstance(experiment.contrast.ablation, Optimal):
            places = [(each, layer) for each in grid.all_sites for layer in experiment.facts.layers(each)]
            experiment.contrast.ablation.require(places, "this patch")
        return cls(experiment, grid, experiment.runs(() if dry else grid.all_sites))

    @property
    def reads(self) -> Reads:
        return self.experiment.reads(self.runs)

    def run(self) -> xr.Dataset:
        """Unit by unit: run, average the draws, write, go on."""
        engine = self._engine()
        sheet, units = self._sheet(engine), list(self._units(engine))
        with self._opened(sheet, units) as opened:
            todo = units if opened is None else [unit for unit in units if not opened.done[unit.number]]
            with self._bar(todo) as bar:
                for unit, cells, ready, right in self._prepared(engine, todo):
                    outcome = ready.run(cells, bar.update)
                    parts = sheet.fill(unit.prompts, unit.site, unit.first, outcome, right)
                    if opened is not None:
                        opened.write(unit.number, parts)
            return sheet.dataset() if opened is None else opened.load()

    def run_mixed(self, mixes: Sequence[Mix]) -> list[xr.Dataset]:
        """A result for every mixture of base and source that is patched in; both are run once. No store."""
        engine = self._engine()
        sheets, units = [self._sheet(engine) for _ in mixes], list(self._units(engine))
        with self._bar(units * len(mixes)) as bar:
            for unit, cells, ready, right in self._prepared(engine, units, both=True):
                for sheet, mix in zip(sheets, mixes):
                    outcome = ready.mixed(mix).run(cells, bar.update)
                    sheet.fill(unit.prompts, unit.site, unit.first, outcome, right)
        return [sheet.dataset() for sheet in sheets]

    def _engine(self) -> str:
        experiment, table = self.experiment, self.grid.table
        asked, source = experiment.budget.engine, experiment.contrast.source
        return choose(experiment.model, self.runs, table.sites, len(table), asked, source)

    def _sheet(self, engine: str) -> Sheet:
        attrs = results.attrs(self.experiment, method="patch", site=", ".join(self.grid.all_sites))
        attrs |= {"window": self.grid.window, "engine": engine, "draws": self.experiment.draws}
        return Sheet(self.experiment, self.grid, attrs)

    def _bar(self, units: list[_Unit]) -> tqdm:
        draws, shown = self.experiment.draws, self.experiment.budget.progress
        total = sum((u.prompts.stop - u.prompts.start) * draws * len(u.cells) for u in units)
        return tqdm(total=total, disable=not shown, desc="patch", unit="run")

    def _units(self, engine: str) -> Iterator[_Unit]:
        """The work in order; with a store a layer (or 64 listed cells) at a time, else all together."""
        grid, budget = self.grid, self.experiment.budget
        n, stored, block = len(self.experiment.task), budget.store is not None, self._block(engine)
        number = 0
        for start in range(0, n, block):
            prompts = slice(start, min(start + block, n))
            for site, (cells, coords) in enumerate(zip(grid.cells, grid.coords)):
                length = len(coords[grid.by[0]])
                step = (1 if grid.by[0] == "layer" else _LISTED) if stored else length
                each = len(cells) // length
                for first in range(0, length, step):
                    span = slice(first, min(first + step, length))
                    yield _Unit(number, prompts, site, span, np.arange(span.start * each, span.stop * each))
                    number += 1

    def _block(self, engine: str) -> int:
        """Prompts to capture at once."""
        experiment, reads = self.experiment, self.reads
        n, draws, budget = len(experiment.task), experiment.draws, experiment.budget
        if engine != "fast":
            return min(n, 32)
        columns = experiment.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        room = experiment.room.prompts(self.runs.n_pos, self.grid.all_sites, columns, reads.everywhere)
        block = min(max(1, room // draws), n)
        if budget.store is not None and budget.batch_size is not None:
            block = max(1, min(block, budget.batch_size // draws))
        return block

    def _prepared(
        self, engine: str, units: list[_Unit], both: bool = False
    ) -> Iterator[tuple[_Unit, Cells, Prepared | Reference, np.ndarray]]:
        """Units in order, ready to be run; base and source runs are made once for each block of prompts."""
        start, ready, right = -1, None, np.empty(0)
        for unit in units:
            cells = self.grid.cells[unit.site]
            if ready is None or start != unit.prompts.start:
                start, ready = unit.prompts.start, None  # the old one is freed before the new one is made
                ready = self._ready(engine, unit.prompts, both)
                right = ready.clean_right()[:: self.experiment.draws]  # the clean run is that of every draw
            some = cells if len(unit.cells) == len(cells) else cells.take(unit.cells)
            yield unit, some, ready, right

    def _ready(self, engine: str, prompts: slice, both: bool) -> Prepared | Reference:
        experiment, draws = self.experiment, self.experiment.draws
        some = self.runs.take(slice(prompts.start * draws, prompts.stop * draws))
        source, sites = experiment.contrast.source, self.grid.all_sites
        if engine == "fast":
            blocks = weights(experiment.model)
            theirs = None if source is None or source is experiment.model else weights(source)
            return Prepared(blocks, some, sites, experiment.metric, experiment.room, theirs)
        return Reference(experiment.model, some, sites, experiment.metric, source, both)

    def _opened(self, sheet: Sheet, units: list[_Unit]):
        identity = self.experiment.identity() | {
            "method": "patch",
            "site": ", ".join(self.grid.all_sites),
            "dims": ", ".join(self.grid.by),
            "window": self.grid.window,
            "engine": sheet.attrs["engine"],
            "cells": [[str(v) for v in c.tolist()] for c in self.grid.coords[0].values()],
            **self.grid.identity(),
        }
        chunks = {"prompt": units[0].prompts.stop, "layer": 1, "site": 1, "cell": _LISTED}
        regions = [sheet.regions(unit.prompts, unit.site, unit.first) for unit in units]
        store = self.experiment.budget.store
        return stores.open_arrays(store, sheet.dataset(), identity, chunks, regions)
