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

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from tqdm import tqdm

from interp import results, stores
from interp import workers as workers_
from interp._verbs import verb
from interp.ablation import Ablation, Constants, Optimal
from interp.engine.plan import Plan, make_plan
from interp.engine.readout import Reads
from interp.engine.runs import Mix, Runs
from interp.engine.trust import choose
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.grid import Grid, Sheet, make_grid
from interp.models import Model, expert_points, unsupported
from interp.patching._feature_cells import asked, require_alone
from interp.patching._features import FeatureSweep
from interp.patching._precise import precision_attrs
from interp.patching._units import Bench, Measured, PatchJob, Unit, units_of
from interp.sae import Dictionary
from interp.tasks import Task
from interp.tasks.check import warn_unsolved

_LISTED = 64  # listed cells in a chunk of a store


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
    precision: str | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
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
    source: another model of the same shape (a checkpoint, a tuned copy, an adapter merged or not): the other
        run is its run, so that the sweep asks where two models differ. On the same prompts with
        `task.without_corrupt()`; `corrupt` is then the model's own metric, `clean` that of source (noise: the
        other way round).
    precision: "bfloat16" or "tf32" (an NVIDIA GPU from Ampere on) for the products of blocks, for
        speed on a GPU (a processor without such instructions takes far longer); everything else stays
        float32. 20 cells are measured both ways first, and `attrs["precision"]` says by how much they
        differ. bfloat16 holds a copy of half the model's size.
    ablation: "resample" (the other run), "gaussian", "zero", "mean", or settings of `interp.ablation`.
    direction: "denoise" (the default) or "noise"; zero and mean ablation only "noise".
    metric: one or several; the task's own by default.
    batch_size: counterfactual runs at once at most; by default as many as `memory` allows.
    memory: bytes to use above the model's own.
    store: a zarr folder, written as the sweep goes; the same call after a kill resumes. Units that were lost
        or damaged are measured again; another process on it is refused.
    workers: this many processes share the work; each loads the model, which must come from `interp.load`.
    executor: instead, a `concurrent.futures` executor, a Dask Client, or the address of a Dask scheduler
        ("tcp://host:8786"). Units, and so the numbers, are those of one process; a worker that dies costs its
        unit, which is done again.
    engine: "auto" (fast if it proves itself on this model, else reference), "fast" or "reference".
    progress: one bar, counting counterfactual runs.

    Returns a Dataset: `value`, the effect in units of the metric, with dims prompt, (site,) the dims of `by`,
    (metric); `clean` and `corrupt`, the raw metric of both runs by prompt; `clean_right`, 1 where the clean
    run gives the answers more probability than the wrong answers (whatever the metric), else 0. For metrics
    where lower is better (KL, Rank, Loss) the effect's sign is turned, so that positive always helps.

    Cost: two forwards per prompt, and for each cell that can matter the layers after it at the positions
    after it (`interp.plan` counts); engine "reference" one forward per cell and prompt.
    Raises ValueError for anything wrong with the request, before the first forward pass, and
    `workers.WorkersLost`, an OSError, where workers die again and again. Warns `UnsolvedTask`, with the
    accuracy, when fewer than half of the clean runs are right.

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
            memory=memory, store=store, workers=workers, executor=executor, engine=engine, progress=progress,
            source=source, precision=precision,
        )  # fmt: skip
        if features is not None:
            require_alone(site, window, neurons)
            if precision is not None:
                raise ValueError("features= is measured in the model's own precision: leave out precision=.")
            result = FeatureSweep(experiment, features, asked(experiment, features, by, cells)).run()
            warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
            return result
        sweep = Sweep.of(experiment, site, by, cells, window, neurons)
        sites, other = sweep.grid.all_sites, model if source is None else source
        with expert_points(model, sites), expert_points(other, sites):
            result = sweep.run()
    warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
    return result


def sweep_plan(
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
    """What `patch` with the same arguments would cost. Raises the same errors."""
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
        budget = self.experiment.budget
        parcel = self._parcel() if budget.elsewhere else None  # raises before the first pass
        engine = self._engine()
        sheet, units = self._sheet(engine), units_of(self.experiment, self.grid, self.runs, engine)
        with self._opened(sheet, units) as opened:
            todo = units if opened is None else [unit for unit in units if not opened.done[unit.number]]
            with self._bar(todo) as bar, closing(self._measured(engine, todo, bar, parcel)) as measured:
                for unit, (outcome, right) in measured:
                    parts = sheet.fill(unit.prompts, unit.site, unit.first, outcome, right)
                    if opened is not None:
                        opened.write(unit.number, parts)
            return sheet.dataset() if opened is None else opened.load()

    def _measured(
        self, engine: str, units: list[Unit], bar: tqdm, parcel: workers_.Parcel | None
    ) -> Generator[tuple[Unit, Measured], None, None]:
        """Units with what was measured: here in order, elsewhere as they come."""
        if parcel is None:
            bench = Bench(self.experiment, self.grid, self.runs, engine)
            for unit in units:
                yield unit, bench.measure(unit, bar.update)
            return
        budget = self.experiment.budget
        parcel = workers_.Parcel.of(parcel.head, PatchJob.of(self.experiment, self.grid, engine))
        for unit, outcome in workers_.measured(parcel, units, budget.workers, budget.executor, budget.kept):
            bar.update(unit.n_runs * self.experiment.draws)
            yield unit, outcome

    def _parcel(self) -> workers_.Parcel:
        """What goes to workers, but for the engine, which a pass chooses."""
        experiment, source = self.experiment, self.experiment.contrast.source
        models = [experiment.model] if source is None else [experiment.model, source]
        named = workers_.metrics_of(experiment.metric, experiment.task)
        return workers_.pack(PatchJob.of(experiment, self.grid, experiment.budget.engine), models, named)

    def run_mixed(self, mixes: Sequence[Mix]) -> list[xr.Dataset]:
        """A result for every mixture of base and source that is patched in; both are run once. No store."""
        engine = self._engine()
        sheets, units = (
            [self._sheet(engine) for _ in mixes],
            units_of(self.experiment, self.grid, self.runs, engine),
        )
        bench = Bench(self.experiment, self.grid, self.runs, engine, both=True)
        with self._bar(units * len(mixes)) as bar:
            for unit in units:
                for sheet, (outcome, right) in zip(sheets, bench.mixed(unit, mixes, bar.update)):
                    sheet.fill(unit.prompts, unit.site, unit.first, outcome, right)
        return [sheet.dataset() for sheet in sheets]

    def _engine(self) -> str:
        experiment, table = self.experiment, self.grid.table
        asked, source = experiment.budget.engine, experiment.contrast.source
        return choose(experiment.model, self.runs, table.sites, len(table), asked, source)

    def _sheet(self, engine: str) -> Sheet:
        attrs = results.attrs(self.experiment, method="patch", site=", ".join(self.grid.all_sites))
        attrs |= {"window": self.grid.window, "engine": engine, "draws": self.experiment.draws}
        attrs |= precision_attrs(self.experiment, self.grid, self.runs, engine)
        return Sheet(self.experiment, self.grid, attrs)

    def _bar(self, units: list[Unit]) -> tqdm:
        draws, shown = self.experiment.draws, self.experiment.budget.progress
        total = sum(unit.n_runs for unit in units) * draws
        return tqdm(total=total, disable=not shown, desc="patch", unit="run")

    def _opened(self, sheet: Sheet, units: list[Unit]):
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
