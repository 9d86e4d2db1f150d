"""The work of a sweep: the runs of every direction, here, by workers, or written to a store as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp import experiment as experiments
from interp import stores
from interp import workers as pools
from interp.engine.memory import Budget as Room
from interp.engine.readout import Reads
from interp.models import Anatomy, Model, anatomy, model_fingerprint
from interp.positions import AnyPositions, parse
from interp.prompts import Prompts
from interp.steering._direction import Direction
from interp.steering._generate import generate
from interp.steering._intervention import Intervention, flat
from interp.steering._runs import Question, Suffix, Whole, question_of, runner, score
from interp.steering.edits import added
from interp.tasks import vocabulary

Intervene = Callable[[Direction, Any], Any]
Judge = Callable[[Tensor], Float[Tensor, "prompt"]]
_ROWS = 16384  # positions that run at once


class Job:
    """A sweep's model, directions and coefficients."""

    def __init__(
        self,
        model: Model,
        parts: list[Direction],
        steps: list[float],
        intervene: Intervene | None,
        when: AnyPositions,
    ) -> None:
        self.model, self.parts, self.steps, self.intervene = model, parts, steps, intervene
        self.when = parse(when)
        for part in parts:
            self.made(part, 0.0)

    def made(self, part: Direction, step: float | Tensor) -> list[Intervention]:
        """The interventions of a direction, checked. No forward pass."""
        if self.intervene is None:
            made = added(part, [part], step, when=self.when)
        else:
            made = self.intervene(part, step)
        return [each.check(self.model) for each in flat([made])]

    def check(self, rows: Prompts) -> None:
        """ValueError where something acts at positions that the prompts do not have."""
        for each in (each for part in self.parts for each in self.made(part, 0.0)):
            each.when.check(int(rows.lengths.min()), int(rows.lengths.max()), rows.spans)

    def runner(self, question: Question, engine: str, n_sets: int) -> Suffix | Whole:
        """What runs the prompts. n_sets: of directions, each of which runs at every place and step."""
        made = [self.made(part, 0.0) for part in self.parts]
        return runner(self.model, question, made, engine, n_sets * len(self.parts) * len(self.steps))

    def all_sets(
        self,
        question: Question,
        sets: Mapping[str, Sequence[Direction | None]],
        engine: str,
        budget: Room,
        done: Callable[[int], Any],
    ) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "prompt metric"], str]:
        """Metrics of every set, those of the clean runs, and the engine of what follows: "reference" after a
        fall-back, which is told of once. Blocks of prompts take turns; half of the budget is for what a block
        holds, half for the runs of a batch."""
        reads = question.reads
        parts: list[dict[str, np.ndarray]] = []
        clean: list[np.ndarray] = []
        for block in torch.arange(len(reads.runs), device=reads.runs.base.device).split(
            self._block(reads, budget)
        ):
            some = question.take(block)
            run = self.runner(some, engine, len(sets))
            engine = run.engine if run.engine == "reference" else engine
            size = self._at_once(reads, budget)
            parts.append(
                {name: self.measure(run, some.reads, each, done, size) for name, each in sets.items()}
            )
            every = torch.arange(len(block), device=block.device)
            clean.append(score(some.reads, run.clean, run.clean, every).cpu().numpy())
        measured = {name: np.concatenate([part[name] for part in parts], 2) for name in sets}
        return measured, np.concatenate(clean), engine

    def _block(self, reads: Reads, budget: Room) -> int:
        """Prompts whose clean runs are held: the stream at every steered layer, and the logits read."""
        facts, n_pos = budget.facts, reads.runs.n_pos
        read = _columns(reads, facts) * (n_pos if reads.everywhere else 1)
        each = n_pos * facts.d_model * len(self.parts) + 2 * read
        each += budget.run_bytes(n_pos, _columns(reads, facts), reads.everywhere) // budget.item_size
        return max(1, int(budget.limit / 2 / (each * budget.item_size)))

    def _at_once(self, reads: Reads, budget: Room) -> int:
        """Runs in a batch."""
        each = budget.run_bytes(reads.runs.n_pos, _columns(reads, budget.facts), reads.everywhere)
        return max(1, min(_ROWS // reads.runs.n_pos, int(budget.limit / 2 / each)))

    def measure(
        self,
        run: Suffix | Whole,
        reads: Reads,
        members: Sequence[Direction | None],
        done: Callable[[int], Any],
        at_once: int | None = None,
    ) -> np.ndarray:
        """Metrics [layer, coefficient, prompt, metric]; NaN where a control does not exist.

        at_once: runs in a batch; by default what keeps the processor busy.
        """
        n, device = len(reads.runs), reads.runs.base.device
        out = np.full((len(members), len(self.steps), n, len(reads.metrics)), np.nan)
        size = max(1, _ROWS // reads.runs.n_pos) if at_once is None else at_once
        pairs = torch.cartesian_prod(torch.arange(len(self.steps)), torch.arange(n)).view(-1, 2)
        groups = [pairs] if self.intervene is None else list(pairs.split(n))
        for layer, part in enumerate(members):
            for rows in (rows for group in groups for rows in group.split(size)):
                if part is not None:
                    step, prompt = rows[:, 0], rows[:, 1].to(device)
                    values = torch.tensor(self.steps, dtype=torch.float64, device=device)[step.to(device)]
                    made = self.made(part, values if self.intervene is None else self.steps[int(step[0])])
                    logits = run.run(prompt, made)
                    scores = score(reads, logits, run.clean[prompt], prompt)
                    out[layer, step.numpy(), rows[:, 1].numpy()] = scores.cpu().numpy()
                done(len(rows))
        return out

    def judged(self, rows: Prompts, judge: Judge, n_new: int, engine: str) -> np.ndarray:
        """A judge's numbers [prompt, layer, coefficient] on what is generated."""
        out = np.full((len(rows), len(self.parts), len(self.steps)), np.nan)
        for layer, part in enumerate(self.parts):
            for i, step in enumerate(self.steps):
                made = self.made(part, step)
                whole = generate(self.model, rows, made, max_new_tokens=n_new, engine=engine)
                value = judge(continued(self.model, whole, rows, n_new))
                if not isinstance(value, Tensor) or value.shape != (len(rows),):
                    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ValueError(f"the judge returned {got}; return a tensor of shape ({len(rows)},).")
                out[:, layer, i] = value.double().cpu().numpy()
        return out


def _columns(reads: Reads, facts: Anatomy) -> int:
    return facts.d_vocab_out if reads.columns is None else len(reads.columns)


@dataclass(frozen=True, eq=False)
class Work:
    """A sweep as workers get it: all but the model. A unit is a direction: the name of a set, and a layer."""

    parts: list[Direction]
    steps: list[float]
    intervene: Intervene | None
    when: AnyPositions
    sets: dict[str, list[Direction | None]]
    asked: tuple[Any, ...]  # prompts, mask, answer, wrong, metric
    engine: str
    memory: int

    def packed(
        self, model: Model, question: Question, workers: int | None, executor: Any
    ) -> pools.Parcel | None:
        """What goes to workers; None where the work stays here."""
        pools.check(workers, executor)
        if workers is None and executor is None:
            return None
        named: dict[str, Any] = {f"metric {each.name!r}": each for each in question.reads.metrics}
        named |= {"intervene=": self.intervene, "when=": self.when, "the prompts": self.asked}
        return pools.pack(self, [model], named)

    def start(self, models: Sequence[Model]) -> Callable[[tuple[str, int]], np.ndarray]:
        """In a worker. Cost of a unit: as here, and the unsteered runs."""
        (model,) = models
        question, budget = question_of(model, *self.asked), Room(anatomy(model), self.memory)
        job = Job(model, self.parts, self.steps, self.intervene, self.when)

        def measure(unit: tuple[str, int]) -> np.ndarray:
            name, layer = unit
            members = {name: [self.sets[name][layer]]}
            return job.all_sets(question, members, self.engine, budget, lambda n: None)[0][name]

        return measure

    def measured(
        self, model: Model, question: Question, budget: experiments.Budget, done: Callable[[int], Any]
    ) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "prompt metric"], str]:
        """The metrics [layer, coefficient, prompt, metric] of every set by its units, those of the clean
        runs, and the engine.

        By workers, or here where they are written to a store as they come.
        """
        parcel = self.packed(model, question, budget.workers, budget.executor)
        identity = self.identity(model, question) if budget.store is not None else {}
        _, clean, engine = Job(model, self.parts, self.steps, self.intervene, self.when).all_sets(
            question, {}, self.engine, Room(anatomy(model), self.memory), lambda n: None
        )
        units = [(name, layer) for name, members in self.sets.items() for layer in range(len(members))]
        shape = (len(units), len(self.steps), *clean.shape)
        sheet = xr.Dataset({"raw": (("part", "coefficient", "prompt", "metric"), np.full(shape, np.nan))})
        regions = [{"raw": (slice(number, number + 1),)} for number in range(len(units))]
        with stores.open_arrays(budget.store, sheet, identity, {"part": 1}, regions) as store:
            todo = [unit for number, unit in enumerate(units) if store is None or not store.done[number]]
            for unit, array in self._each(model, parcel, todo, budget):
                number = units.index(unit)
                sheet["raw"].values[number] = array[0]
                if store is not None:
                    store.write(number, {"raw": (regions[number]["raw"], array)})
                done(array.shape[1] * array.shape[2])
            raw = (sheet if store is None else store.load())["raw"].values
        return {name: raw[[unit[0] == name for unit in units]] for name in self.sets}, clean, engine

    def _each(
        self,
        model: Model,
        parcel: pools.Parcel | None,
        units: list[tuple[str, int]],
        budget: experiments.Budget,
    ) -> Iterator[tuple[tuple[str, int], np.ndarray]]:
        """Units with their arrays [1, coefficient, prompt, metric]: here in order, elsewhere as they come."""
        if parcel is not None:
            yield from pools.measured(parcel, units, budget.workers, budget.executor, budget.kept)
        elif units:
            measure = self.start([model])
            yield from ((unit, measure(unit)) for unit in units)

    def identity(self, model: Model, question: Question) -> dict[str, Any]:
        """What must be the same for two sweeps to be the same."""
        reads, rows = question.reads, question.rows
        if self.intervene is not None and "<" in getattr(self.intervene, "__qualname__", "<"):
            raise ValueError(
                "store= must know intervene= again after a kill. Define it at the top level of a module, or "
                "leave out store=."
            )
        arrays = [rows.tokens, rows.lengths, reads.runs.answer, reads.runs.wrong, reads.runs.positions]
        arrays += [
            member.vector for members in self.sets.values() for member in members if member is not None
        ]
        digest = blake2b(digest_size=16)
        for array in arrays:
            digest.update(array.detach().cpu().contiguous().numpy().tobytes())
        acts = (
            "add" if self.intervene is None else f"{self.intervene.__module__}.{self.intervene.__qualname__}"
        )
        return {
            "method": "sweep", "model_fingerprint": model_fingerprint(model), "arrays": digest.hexdigest(),
            "places": [str(part.place) for part in self.parts], "steps": self.steps, "acts": acts,
            "sets": {name: [each is not None for each in members] for name, members in self.sets.items()},
            "when": repr(parse(self.when)), "metric": ", ".join(map(repr, reads.metrics)),
            "engine": self.engine,
        }  # fmt: skip


def continued(model: Model, whole: Tensor, rows: Prompts, n_new: int) -> Int[Tensor, "prompt pos"]:
    """What was generated after each prompt, [prompt, n_new]; padding after the end of a text."""
    column = rows.lengths[:, None] + torch.arange(n_new, device=whole.device)
    inside = column < whole.shape[1]
    return whole.gather(1, column.clamp(max=whole.shape[1] - 1)).masked_fill(~inside, vocabulary.pad(model))


def by_layer(
    model: Model, directions: Direction | Sequence[Direction], steps: list[float]
) -> list[Direction]:
    given = [directions] if isinstance(directions, Direction) else list(directions)
    parts = [part for each in given for part in each.check(model).require_any().split()]
    layers = [part.layer for part in parts]
    if len(set(layers)) != len(layers) or None in layers:
        raise ValueError(
            f"the directions are at layers {layers}; a sweep takes one for each layer. Sweep several methods "
            "one by one, and join the results with xarray.concat."
        )
    return sorted(parts, key=lambda part: part.layer or 0)
