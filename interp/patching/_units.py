"""A sweep in units: which cells on which prompts are measured together, and what measures them.

1. A unit is a block of prompts, one site, and a span of the first dim of its cells: about `_FLOPS` of work,
   counted from tokens and shapes alone. Prompts are divided first, cells only where one prompt is too much.
   Neither `memory` nor the number of workers changes a unit, so that numbers do not depend on them.
2. A `Bench` measures units of one sweep, and keeps the captured runs of the last prompts: all of a unit's, or
   as many at once as fit the memory.
3. A `PatchJob` is what a worker needs to set up the same bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from interp.engine.cells import Cells
from interp.engine.plan import layer_flops
from interp.engine.precision import arithmetic
from interp.engine.readout import Outcome, Reads
from interp.engine.reference import Reference
from interp.engine.runs import Mix, Runs
from interp.engine.trust import choose
from interp.engine.wavefront import Prepared
from interp.experiment import Budget, Contrast, Experiment
from interp.grid import Grid
from interp.models import Model, anatomy, expert_points, weights
from interp.tasks import Task

_FLOPS = {"cpu": 2e11, "cuda": 2e13}  # of a unit: seconds, so that a lost one costs little
_ROWS = 512  # of the stream at least, so that reading the weights is not most of the work
_HOOKED = 32  # prompts at once through the model itself
Tick = Callable[[int], object]
Measured = tuple[Outcome, np.ndarray]  # and which clean runs are right: [prompt]


@dataclass(frozen=True)
class Unit:
    """A block of prompts, one site, and a span of the first dim of its cells."""

    number: int
    prompts: slice
    site: int
    first: slice
    cells: slice

    @property
    def n_runs(self) -> int:
        """Cells times prompts."""
        return (self.prompts.stop - self.prompts.start) * (self.cells.stop - self.cells.start)


def units_of(experiment: Experiment, grid: Grid, runs: Runs, engine: str) -> list[Unit]:
    """All of a sweep's work, in order."""
    n, gated = len(experiment.task), bool(getattr(experiment.model.cfg, "gated_mlp", False))
    row = sum(f for part, f in layer_flops(experiment.facts, gated).items() if part != "score")
    size = _FLOPS.get(experiment.facts.device.type, _FLOPS["cuda"])
    size = max(size, _ROWS * row * experiment.facts.n_layers)
    costs = _costs(experiment, grid, runs, engine, row)
    most = n if engine == "fast" else _HOOKED
    block = int(np.clip(size * len(costs) / sum(map(np.sum, costs)), 1, min(n, most)))
    units = []
    for start in range(0, n, block):
        for site, cost in enumerate(costs):
            each = len(grid.cells[site]) // len(cost)
            for first in _spans(cost * block, size):
                cells = slice(first.start * each, first.stop * each)
                units.append(Unit(len(units), slice(start, min(start + block, n)), site, first, cells))
    return units


def _costs(experiment: Experiment, grid: Grid, runs: Runs, engine: str, row: float) -> list[np.ndarray]:
    """By site, about how many FLOPs each index of the first dim takes on one prompt."""
    facts, draws, fast = experiment.facts, experiment.draws, engine == "fast"
    n_rows = float(runs.n_pos)
    if fast:
        live = experiment.reads(runs).stop.cpu() - runs.first_change().cpu()
        n_rows = max(1.0, float(live.clamp(min=0).double().mean()))
    out = []
    for cells, coords in zip(grid.cells, grid.coords):
        layers = (
            facts.n_layers - cells.first_layer() if engine == "fast" else np.full(len(cells), facts.n_layers)
        )
        by_index = layers.reshape(len(coords[grid.by[0]]), -1).sum(1)
        out.append(by_index * (draws * n_rows * row))
    return out


def _spans(cost: np.ndarray, size: float) -> Iterator[slice]:
    """Neighbours together, in as many parts of about one cost as the size asks for."""
    total, middle = cost.sum(), np.cumsum(cost) - cost / 2
    parts = min(len(cost), max(1, round(total / size)))
    starts = np.flatnonzero(np.diff((middle * parts / total).astype(int), prepend=-1)).tolist()
    yield from (slice(a, b) for a, b in zip(starts, [*starts[1:], len(cost)]))


class Bench:
    """What measures the units of a sweep. both: keep the base run's activations too, to be mixed."""

    def __init__(
        self, experiment: Experiment, grid: Grid, runs: Runs, engine: str, both: bool = False
    ) -> None:
        self.experiment, self.grid, self.runs = experiment, grid, runs
        self.engine, self.both = engine, both
        self.room = self._room()
        self._at, self._ready = slice(-1, -1), None

    def measure(self, unit: Unit, tick: Tick = lambda n: None) -> Measured:
        """The metrics of the unit's cells on its prompts."""
        return self.mixed(unit, [None], tick)[0]

    def mixed(self, unit: Unit, mixes: Sequence[Mix | None], tick: Tick) -> list[Measured]:
        """The same for every mixture of base and source that is patched in."""
        cells = self.grid.cells[unit.site]
        if unit.cells.stop - unit.cells.start < len(cells):
            cells = cells.take(np.arange(unit.cells.start, unit.cells.stop))
        start, stop = unit.prompts.start, unit.prompts.stop
        blocks = [slice(first, min(first + self.room, stop)) for first in range(start, stop, self.room)]
        by_block = [self.of_block(block, cells, mixes, tick) for block in blocks]
        return [joined(parts) for parts in zip(*by_block)]

    def of_block(
        self, prompts: slice, cells: Cells, mixes: Sequence[Mix | None], tick: Tick = lambda n: None
    ) -> list[Measured]:
        """Some cells on some prompts that are captured together."""
        with arithmetic(self.experiment.contrast.precision):
            ready = self._made_ready(prompts)
            right = ready.clean_right()[:: self.experiment.draws]  # the clean run is that of every draw
            mixtures = (ready if mix is None else ready.mixed(mix) for mix in mixes)
            return [(each.run(cells, tick), right) for each in mixtures]

    def _made_ready(self, prompts: slice) -> Prepared | Reference:
        if self._ready is None or self._at != prompts:
            self._at, self._ready = prompts, None  # the old one is freed before the new one is made
            self._ready = self._captured(prompts)
        return self._ready

    def _captured(self, prompts: slice) -> Prepared | Reference:
        experiment, draws = self.experiment, self.experiment.draws
        some = self.runs.take(slice(prompts.start * draws, prompts.stop * draws))
        source, sites = experiment.contrast.source, self.grid.all_sites
        if self.engine == "fast":
            blocks = weights(experiment.model)
            theirs = None if source is None or source is experiment.model else weights(source)
            precision = experiment.contrast.precision
            return Prepared(blocks, some, sites, experiment.metric, experiment.room, theirs, precision)
        return Reference(experiment.model, some, sites, experiment.metric, source, self.both)

    def _room(self) -> int:
        """Prompts to capture at once."""
        experiment, reads = self.experiment, Reads(self.runs, self.experiment.metric)
        if self.engine != "fast":
            return _HOOKED
        columns = experiment.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        room = experiment.room.prompts(self.runs.n_pos, self.grid.all_sites, columns, reads.everywhere)
        return max(1, room // experiment.draws)


def joined(parts: Sequence[Measured]) -> Measured:
    """The measures of neighbouring prompts as one."""
    if len(parts) == 1:
        return parts[0]
    patched = np.concatenate([outcome.patched for outcome, _ in parts], 1)
    base, source = (
        np.concatenate([getattr(outcome, name) for outcome, _ in parts]) for name in ("base", "source")
    )
    return Outcome(patched, base, source), np.concatenate([right for _, right in parts])


def _points(models: Sequence[Model], sites: tuple[str, ...]) -> ExitStack:
    """Hook points of experts in every model, for as long as a block runs."""
    with ExitStack() as stack:
        for each in models:
            stack.enter_context(expert_points(each, sites))
        return stack.pop_all()


@dataclass(frozen=True, eq=False)
class PatchJob:
    """A sweep without its models: what every unit of it shares (`interp.workers`)."""

    task: Task
    contrast: Contrast  # without its source, which is a model
    budget: Budget
    grid: Grid
    engine: str

    @classmethod
    def of(cls, experiment: Experiment, grid: Grid, engine: str) -> PatchJob:
        """Of a sweep in the driver."""
        contrast = replace(experiment.contrast, source=None)
        return cls(experiment.task, contrast, experiment.budget.of_a_worker, grid, engine)

    def start(self, models: Sequence[Model]) -> Callable[[Unit], Measured]:
        """The bench in a worker, once its models have passed the trust check there too."""
        model, source = models[0], models[-1]
        contrast = self.contrast if len(models) == 1 else replace(self.contrast, source=source)
        experiment = Experiment(model, self.task, anatomy(model), contrast, self.budget)
        sites = self.grid.all_sites
        with _points(models, sites):
            runs = experiment.runs(sites)
            table = self.grid.table
            engine = choose(model, runs, table.sites, len(table), self.engine, contrast.source)
            bench = Bench(experiment, self.grid, runs, engine)

        def measure(unit: Unit) -> Measured:
            with _points(models, sites):
                return bench.measure(unit)

        return measure
