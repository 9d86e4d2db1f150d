"""`sweep`: what steering does, and what it breaks, over layers, coefficients and prompts.

1. Run the clean prompts once and keep the stream before each steered layer.
2. For every layer, run all coefficients of all prompts from there, side by side in the batch (`Suffix`). Only
   the logits that the metrics read are computed.
3. The same with the controls: a random direction, and the direction of shuffled labels, of equal norm.

The values are those of a whole forward pass under hooks. A model that the engine cannot run, or whose clean
logits it does not reproduce, is run whole under hooks instead (`Whole`).

`value` is an effect, metric(steered) - metric(unsteered), with the sign turned where lower is better:
positive is better by the metric. `raw` is the metric of the steered run, `clean` that of the unsteered one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp import experiment as experiments
from interp import results
from interp import workers as pools
from interp._arguments import shown
from interp._verbs import verb
from interp.engine.memory import Budget
from interp.engine.readout import Reads
from interp.experiment import MEMORY, Metrics
from interp.models import Anatomy, Model, anatomy
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts
from interp.steering._direction import Direction, controls
from interp.steering._generate import generate
from interp.steering._intervention import Intervention, flat
from interp.steering._runs import Question, Suffix, Whole, question_of, runner, score
from interp.steering.edits import add, finite
from interp.tasks import vocabulary
from interp.tasks.metrics import Loss

Intervene = Callable[[Direction, Any], Any]
Judge = Callable[[Tensor], Float[Tensor, "prompt"]]
_ROWS = 16384  # positions that run at once
_DIMS = ("layer", "coefficient", "prompt", "metric")
_CONVENTION = "effect = metric(steered) - metric(unsteered); positive: better by the metric"


@verb
def sweep(
    model: Model,
    directions: Direction | Sequence[Direction],
    prompts: Any,
    coefficients: Any,  # numbers
    *,
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    intervene: Intervene | None = None,
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    neutral: Any = None,
    judges: Mapping[str, Judge] | None = None,
    max_new_tokens: int = 20,
    with_controls: bool = True,
    metric: Metrics | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    workers: int | None = None,
    executor: Any = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Effects of steering: `value` (prompt, layer, coefficient[, metric]), positive is better by the metric.

    directions: one for each layer, or one with several places. prompts: a Task, whose answers and positions
    the metrics read; or prompts (see `interp.prompts.read`; `mask` for padded ids), with `answer` and `wrong`
    token ids, read at the last token. metric: one or several; default: the task's own or entropy, and KL from
    the unsteered run. intervene: (direction, coefficient) -> interventions; default: add the vector times the
    coefficient. neutral: prompts of neutral text, for `neutral_loss` (layer, coefficient, neutral_prompt) in
    nats a token. memory: bytes above the model's own; where the prompts do not fit, blocks of them take turns
    (texts for judges are not bounded). judges: functions of the tokens generated [prompt, pos] (0 and after
    the end of a text, see `generate`) to numbers [prompt], a variable each (prompt, layer, coefficient).

    `raw` is the metric of the steered run, `clean` (prompt[, metric]) that of the unsteered one. `random` and
    `shuffled` are the effects of a random direction and that of shuffled labels, of equal norm; NaN where an
    extracted direction has no such control. Coordinate `in_norms` (layer, coefficient) is the length of what
    is added, in median norms of the stream there. engine: "fast" runs the model's weights, "reference" the
    model under hooks; "auto" takes the first where the weights give the model's logits, and else warns why;
    the attribute `engine` names it. Cost: a pass of each prompt, then one for each coefficient and direction
    from the steered layer on. workers, executor: as in `interp.patch`; a unit is a direction, and neutral
    texts and judges stay here. Raises ValueError before any pass. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> result = interp.steering.sweep(model, d, task, [0.0, 1.0], progress=False)
        >>> result["value"].dims, result["metric"].values.tolist()
        (('prompt', 'layer', 'coefficient', 'metric'), ['logit_diff', 'kl'])
    """
    steps = _steps(coefficients)
    parts = _by_layer(model, directions, steps)
    question = question_of(model, prompts, mask, answer, wrong, metric)
    texts = None if neutral is None else question_of(model, neutral, None, None, None, Loss())
    sets: dict[str, list[Direction | None]] = {"raw": list(parts)}
    sets |= controls(parts, seed) if with_controls else {}
    job = _Job(model, parts, steps, intervene, when)
    job.check(question.rows)
    total = len(parts) * len(steps) * len(question.reads.runs) * len(sets)
    budget = Budget(anatomy(model), experiments.Budget(memory=memory).memory)
    work = _Work(parts, steps, intervene, when, sets, (prompts, mask, answer, wrong, metric), engine, memory)
    parcel = work.packed(model, question, workers, executor)
    with tqdm(total=total, disable=not progress, desc="sweep", unit="run") as bar:
        here = sets if parcel is None else {}
        measured, clean, engine = job.all_sets(question, here, engine, budget, bar.update)
        if parcel is not None:
            measured = work.elsewhere(parcel, workers, executor, bar.update)
    variables: dict[str, Any] = {
        **_effects(question.reads, measured, clean),
        "clean": (("prompt", "metric"), clean),
    }
    if texts is not None:
        raw: dict[str, list[Direction | None]] = {"raw": list(parts)}
        losses, _, _ = job.all_sets(texts, raw, engine, budget, lambda n: None)
        variables["neutral_loss"] = (("layer", "coefficient", "neutral_prompt"), losses["raw"][..., 0])
    for name, judge in (judges or {}).items():
        variables[name] = (
            ("prompt", "layer", "coefficient"),
            job.judged(question.rows, judge, max_new_tokens, engine),
        )
    return _dataset(job, question, variables, seed, "reference" if engine == "reference" else "fast")


def _effects(reads: Reads, measured: Mapping[str, np.ndarray], clean: np.ndarray) -> dict[str, Any]:
    """The raw metrics, and every set as effects: arrays [prompt, layer, coefficient, metric]."""
    signs = np.array([1.0 if metric.better == "higher" else -1.0 for metric in reads.metrics])
    turned = {name: array.transpose(2, 0, 1, 3) for name, array in measured.items()}
    named = {
        "value" if name == "raw" else name: signs * (array - clean[:, None, None])
        for name, array in turned.items()
    }
    dims = ("prompt", "layer", "coefficient", "metric")
    return {name: (dims, array) for name, array in {**named, "raw": turned["raw"]}.items()}


def _steps(coefficients: Any) -> list[float]:
    """Coefficients as numbers. ValueError for anything else."""
    if (
        isinstance(coefficients, (str, bytes))
        or not hasattr(coefficients, "__iter__")
        or (getattr(coefficients, "shape", None) == ())
    ):
        raise ValueError(f"coefficients is {coefficients!r}; give numbers, as in [-1.0, 0.0, 1.0].")
    for each in coefficients:
        finite("coefficients", each)
    steps = [float(each) for each in coefficients]
    if not steps:
        raise ValueError("coefficients is empty. Give at least one; 0 is the unsteered run.")
    if len(set(steps)) < len(steps):
        raise ValueError(f"coefficients is {shown(coefficients)}, with one twice; give each once.")
    return steps


class _Job:
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
        made = add(part, step, when=self.when) if self.intervene is None else self.intervene(part, step)
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
        budget: Budget,
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

    def _block(self, reads: Reads, budget: Budget) -> int:
        """Prompts whose clean runs are held: the stream at every steered layer, and the logits read."""
        facts, n_pos = budget.facts, reads.runs.n_pos
        read = _columns(reads, facts) * (n_pos if reads.everywhere else 1)
        each = n_pos * facts.d_model * len(self.parts) + 2 * read
        each += budget.run_bytes(n_pos, _columns(reads, facts), reads.everywhere) // budget.item_size
        return max(1, int(budget.limit / 2 / (each * budget.item_size)))

    def _at_once(self, reads: Reads, budget: Budget) -> int:
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
                value = judge(_continued(self.model, whole, rows, n_new))
                if not isinstance(value, Tensor) or value.shape != (len(rows),):
                    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ValueError(f"the judge returned {got}; return a tensor of shape ({len(rows)},).")
                out[:, layer, i] = value.double().cpu().numpy()
        return out


def _columns(reads: Reads, facts: Anatomy) -> int:
    return facts.d_vocab_out if reads.columns is None else len(reads.columns)


@dataclass(frozen=True, eq=False)
class _Work:
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
        question, budget = question_of(model, *self.asked), Budget(anatomy(model), self.memory)
        job = _Job(model, self.parts, self.steps, self.intervene, self.when)

        def measure(unit: tuple[str, int]) -> np.ndarray:
            name, layer = unit
            members = {name: [self.sets[name][layer]]}
            return job.all_sets(question, members, self.engine, budget, lambda n: None)[0][name]

        return measure

    def elsewhere(
        self, parcel: pools.Parcel, workers: int | None, executor: Any, done: Callable[[int], Any]
    ) -> dict[str, np.ndarray]:
        """The metrics [layer, coefficient, prompt, metric] of every set, by workers."""
        units = [(name, layer) for name, members in self.sets.items() for layer in range(len(members))]
        arrays: dict[tuple[str, int], np.ndarray] = {}
        for unit, array in pools.measured(parcel, units, workers, executor, "lost"):
            arrays[unit] = array
            done(array.shape[1] * array.shape[2])
        return {
            name: np.concatenate([arrays[name, layer] for layer in range(len(members))])
            for name, members in self.sets.items()
        }


def _continued(model: Model, whole: Tensor, rows: Prompts, n_new: int) -> Int[Tensor, "prompt pos"]:
    """What was generated after each prompt, [prompt, n_new]; padding after the end of a text."""
    column = rows.lengths[:, None] + torch.arange(n_new, device=whole.device)
    inside = column < whole.shape[1]
    return whole.gather(1, column.clamp(max=whole.shape[1] - 1)).masked_fill(~inside, vocabulary.pad(model))


def _by_layer(
    model: Model, directions: Direction | Sequence[Direction], steps: list[float]
) -> list[Direction]:
    given = [directions] if isinstance(directions, Direction) else list(directions)
    parts = [part for direction in given for part in direction.check(model).split()]
    layers = [part.layer for part in parts]
    if len(set(layers)) != len(layers) or None in layers:
        raise ValueError(
            f"the directions are at layers {layers}; a sweep takes one for each layer. Sweep several methods "
            "one by one, and join the results with xarray.concat."
        )
    return sorted(parts, key=lambda part: part.layer or 0)


def _dataset(job: _Job, question: Question, variables: dict[str, Any], seed: int, engine: str) -> xr.Dataset:
    parts, steps, task = job.parts, np.array(job.steps, dtype=float), question.task
    norms = np.array([part.norms.get(part.place, float("nan")) for part in parts])
    lengths = np.array([part.vector.double().norm().item() for part in parts])
    coords = {
        "prompt": np.arange(len(question.rows)),
        "layer": [part.layer for part in parts],
        "coefficient": steps,
        "metric": [metric.name for metric in question.reads.metrics],
        "in_norms": (
            ("layer", "coefficient"),
            lengths[:, None] * steps / np.where(norms > 0, norms, np.nan)[:, None],
        ),
        "place": ("layer", np.array([str(part.place) for part in parts], dtype=object)),
    }
    attrs = results.provenance(
        method="sweep",
        convention=_CONVENTION,
        metric=question.reads.metrics,
        model=anatomy(job.model).name,
        site=", ".join(dict.fromkeys(part.site for part in parts)),
        task="none" if task is None else task.name,
        task_fingerprint="none" if task is None else task.fingerprint(),
        n_prompts=len(question.rows),
        seed=seed,
        direction_method=", ".join(dict.fromkeys(part.method for part in parts)),
        when=repr(job.when),
        engine=engine,
    )
    return results.dataset(variables, coords, attrs, task)
