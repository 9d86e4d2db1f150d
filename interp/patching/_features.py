"""Patching features of a dictionary: each cell one feature, or the dictionary's error, at one position or
all.

1. Run base and source once; take the site apart into φ and ε in both (`sae._site`).
2. Features whose φ differs somewhere are the cells; every other one is a no-op by construction.
3. A cell changes the site by (φ' − φ) d, or ε' − ε: the cells of a unit (`_units`) run from there on in one
   batch (`engine.changes`), here or in workers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp import results, stores
from interp import workers as workers_
from interp.engine.cells import ALL, SPAN
from interp.engine.changes import Changed, Changes, by_hooks
from interp.engine.reference import Reference
from interp.engine.trust import choose
from interp.experiment import Budget, Contrast, Experiment
from interp.grid import Grid, Sheet
from interp.models import Model, anatomy, weights
from interp.patching._feature_cells import Request, feature_grid, feature_runs, labelled
from interp.patching._units import Measured, Tick, Unit, joined, units_of
from interp.sae import _recipe
from interp.sae._dictionary import Dictionary
from interp.sae._site import ERROR, Parts, Site, require_place, site_name
from interp.tasks import Task

_LISTED = 64  # features or listed cells in a chunk of a store


@dataclass(eq=False)
class _Block:
    """Some prompts, run: base and replacement of the site, the engine's runs, and once cells are known the
    changes that they make."""

    prompts: slice
    ready: Changed | Reference
    base: Parts
    put: Parts
    changes: Changes | None = None

    @property
    def delta(self) -> Tensor:
        return self.put.phi - self.base.phi  # [prompt draw, pos, feature]


class Bench:
    """What measures the units of a sweep over features, and keeps the last prompts that it ran, as many as
    the memory holds. features: those that are cells, once they are known (`live`)."""

    def __init__(
        self,
        experiment: Experiment,
        dictionary: Dictionary,
        request: Request,
        engine: str,
        features: Sequence[int] = (),
    ) -> None:
        self.experiment, self.dictionary, self.request = experiment, dictionary, request
        self.runs, self.site = feature_runs(experiment), Site(experiment, dictionary)
        self.engine = choose(experiment.model, self.runs, self.site.captured, 1, engine)
        self.room, self.features = self._room(), list(features)
        self._kept: dict[tuple[int, int], _Block] = {}

    def live(self) -> list[int]:
        """The features that are cells: those that differ anywhere, or those that are asked for."""
        if self.request.cells is not None:
            return sorted({feature for cell in self.request.cells for feature, _ in cell} - {ERROR})
        differ = torch.zeros(self.dictionary.n_features, dtype=torch.bool)
        for prompts in _parts(slice(0, len(self.experiment.task)), self.room):
            differ |= (self._block(prompts).delta != 0).flatten(0, 1).any(0).cpu()
        return differ.nonzero()[:, 0].tolist()

    @cached_property
    def grid(self) -> Grid:
        """Of the features that are known by then."""
        return feature_grid(self.experiment.task, self.dictionary, self.request, self.features)

    def measure(self, unit: Unit, tick: Tick = lambda n: None) -> Measured:
        """The metrics of the unit's cells on its prompts."""
        cells = self.grid.cells[0].take(np.arange(unit.cells.start, unit.cells.stop))
        parts = []
        for prompts in _parts(unit.prompts, self.room):
            block = self._block(prompts)
            if block.changes is None:
                block.changes = self._changes(block)
            if isinstance(block.ready, Changed):
                block.ready.changes = block.changes
                outcome = block.ready.run(cells, tick)
            else:
                outcome = by_hooks(block.ready, block.changes, cells, tick)
            parts.append((outcome, block.ready.clean_right()[:: self.experiment.draws]))
        return joined(parts)

    def _room(self) -> int:
        """Prompts at once: their captures, and their features."""
        n, draws, room = len(self.experiment.task), self.experiment.draws, self.experiment.room
        if self.engine != "fast":
            return min(n, 32)
        reads, n_pos = self.experiment.reads(self.runs), self.runs.n_pos
        columns = self.experiment.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        captured = room.prompts(n_pos, self.site.captured, columns, reads.everywhere)
        each = 4 * 8 * n_pos * self.dictionary.n_features  # φ, φ', their difference, a mask
        return min(max(1, min(captured, self.experiment.budget.memory // max(each, 1)) // draws), n)

    def _block(self, prompts: slice) -> _Block:
        key = (prompts.start, prompts.stop)
        if key not in self._kept:
            held = sum(stop - start for start, stop in self._kept)
            if held + prompts.stop - prompts.start > self.room:
                self._kept.clear()  # freed before the new one is made
            self._kept[key] = self._run(prompts)
        return self._kept[key]

    def _run(self, prompts: slice) -> _Block:
        experiment, draws, site = self.experiment, self.experiment.draws, self.site
        some = self.runs.take(slice(prompts.start * draws, prompts.stop * draws))
        if self.engine == "fast":
            ready = Changed(
                weights(experiment.model), some, site.captured, experiment.metric, experiment.room
            )
            base, source = ready.saved.base, ready.saved.source
        else:
            ready = Reference(experiment.model, some, site.captured, experiment.metric, both=True)
            base, source = ready.base_activations, ready.source_activations
        return _Block(prompts, ready, site.parts(base), site.replacement(site.parts(source)))

    def _changes(self, block: _Block) -> Changes:
        place = require_place(self.dictionary)
        index = torch.tensor(self.features, dtype=torch.int64, device=block.base.phi.device)
        amounts = block.delta[..., index]
        vectors = self.site.rows.to(amounts)[index]
        dense = [block.put.error - block.base.error]
        groups = [cell for cell in self.request.cells or () if len(cell) > 1]
        dense += [torch.stack([self._masked(block, each) for each in cell]).sum(0) for cell in groups]
        return Changes(place.site, place.layer or 0, amounts, vectors, torch.stack(dense))

    def _masked(self, block: _Block, part: tuple[int, int]) -> Tensor:
        """The change of one of several features that are one cell: [prompt, pos, width]."""
        feature, at = part
        if feature == ERROR:
            whole = block.put.error - block.base.error
        else:
            whole = block.delta[..., feature, None] * self.site.rows.to(block.delta)[feature]
        if at == ALL:
            return whole
        draws, spans = self.experiment.draws, self.runs.spans
        some = slice(block.prompts.start * draws, block.prompts.stop * draws)
        pos = torch.arange(whole.shape[1], device=whole.device)
        marks = spans[some, SPAN - at] if at <= SPAN and spans is not None else (pos == at)[None]
        return whole * marks[..., None]


@dataclass(frozen=True, eq=False)
class FeatureJob:
    """A sweep over features without its model: what every unit of it shares (`interp.workers`)."""

    task: Task
    contrast: Contrast
    budget: Budget
    dictionary: _recipe.Recipe
    request: Request
    engine: str
    features: tuple[int, ...] = ()

    def start(self, models: Sequence[Model]) -> workers_.Measure:
        """The bench in a worker, once model and dictionary are proved there too."""
        (model,) = models
        experiment = Experiment(model, self.task, anatomy(model), self.contrast, self.budget)
        dictionary = self.dictionary.load()
        return Bench(experiment, dictionary, self.request, self.engine, self.features).measure


@dataclass(frozen=True, eq=False)
class FeatureSweep:
    """Features of a dictionary on the task of an experiment."""

    experiment: Experiment
    dictionary: Dictionary
    request: Request

    def run(self) -> xr.Dataset:
        """Unit by unit: run, average the draws, write, go on."""
        experiment, budget = self.experiment, self.experiment.budget
        job = self._job() if budget.elsewhere else None
        parcel = None if job is None else self._parcel(job)  # raises before the first pass
        bench = Bench(experiment, self.dictionary, self.request, budget.engine)
        bench.features = bench.live()
        grid, sheet = bench.grid, Sheet(experiment, bench.grid, self._attrs(bench.engine))
        units = units_of(experiment, grid, bench.runs, bench.engine)
        if job is not None and parcel is not None:
            job = replace(job, engine=bench.engine, features=tuple(bench.features))
            parcel = workers_.Parcel.of(parcel.head, job)
        with self._opened(sheet, units, bench.features) as opened:
            todo = units if opened is None else [unit for unit in units if not opened.done[unit.number]]
            total = sum(unit.n_runs for unit in todo) * experiment.draws
            with (
                tqdm(total=total, disable=not budget.progress, desc="patch", unit="run") as bar,
                closing(self._measured(bench, todo, bar, parcel)) as measured,
            ):
                for unit, (outcome, right) in measured:
                    filled = sheet.fill(unit.prompts, 0, unit.first, outcome, right)
                    if opened is not None:
                        opened.write(unit.number, filled)
            out = sheet.dataset() if opened is None else opened.load()
        return labelled(out, self.dictionary, bench.features)

    def _measured(
        self, bench: Bench, units: list[Unit], bar: tqdm, parcel: workers_.Parcel | None
    ) -> Generator[tuple[Unit, Measured], None, None]:
        """Units with what was measured: here in order, elsewhere as they come."""
        budget = self.experiment.budget
        if parcel is None:
            for unit in units:
                yield unit, bench.measure(unit, bar.update)
            return
        for unit, outcome in workers_.measured(parcel, units, budget.workers, budget.executor, budget.kept):
            bar.update(unit.n_runs * self.experiment.draws)
            yield unit, outcome

    def _job(self) -> FeatureJob:
        experiment = self.experiment
        contrast, budget = experiment.contrast, experiment.budget.of_a_worker
        recipe = _recipe.of(self.dictionary)
        return FeatureJob(experiment.task, contrast, budget, recipe, self.request, budget.engine)

    def _parcel(self, job: FeatureJob) -> workers_.Parcel:
        experiment = self.experiment
        return workers_.pack(job, [experiment.model], workers_.metrics_of(experiment.metric, experiment.task))

    def _attrs(self, engine: str) -> dict[str, Any]:
        attrs = results.attrs(self.experiment, method="patch", site=site_name(self.dictionary))
        attrs |= {"window": 1, "engine": engine, "draws": self.experiment.draws, "error": "live"}
        return attrs | {"dictionary": repr(self.dictionary), "n_features": self.dictionary.n_features}

    def _opened(self, sheet: Sheet, units: list[Unit], features: list[int]) -> Any:
        identity = self.experiment.identity() | {
            "method": "patch", "site": sheet.attrs["site"], "dims": ", ".join(self.request.by),
            "engine": sheet.attrs["engine"], "dictionary": _recipe.digest(self.dictionary),
            "features": features, "cells": [list(map(list, cell)) for cell in self.request.cells or ()],
        }  # fmt: skip
        first = self.request.by[0]
        chunks = {"prompt": units[0].prompts.stop, first: 1 if first in ("pos", "span") else _LISTED}
        regions = [sheet.regions(unit.prompts, 0, unit.first) for unit in units]
        return stores.open_arrays(self.experiment.budget.store, sheet.dataset(), identity, chunks, regions)


def _parts(span: slice, size: int) -> Iterator[slice]:
    """A span of prompts in parts of a size."""
    for start in range(span.start, span.stop, size):
        yield slice(start, min(start + size, span.stop))
