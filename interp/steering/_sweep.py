"""`sweep`: what steering does, and what it breaks, over layers, coefficients and prompts.

1. Run the clean prompts once and keep the stream before each steered layer.
2. For every layer, run all coefficients of all prompts from there, side by side in the batch (`Suffix`). Only
   the logits that the metrics read are computed.
3. The same with the controls: a random direction, and the direction of shuffled labels, of equal norm.

The values are those of a whole forward pass under hooks. A model that the engine cannot run, or whose clean
logits it does not reproduce, is run whole under hooks instead (`Whole`).

`value` is the metric of the steered run itself, not a difference: at coefficient 0 it is `base`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from interp.engine.forward import forward
from interp.engine.readout import Readout, Reads, measured, widened
from interp.engine.runs import Runs
from interp.models import Model, anatomy, logits
from interp.models.parts import Weights
from interp.positions import AnyPositions, everywhere, parse
from interp.prompts import Prompts, read
from interp.results import versions
from interp.steering._clock import Clock
from interp.steering._direction import Direction, controls
from interp.steering._generate import generate
from interp.steering._intervention import Intervention, flat, own_weights, steer, taps
from interp.steering.edits import add, finite
from interp.tasks.metrics import KL, Loss, Metric, Reading

Intervene = Callable[[Direction, Any], Any]
Judge = Callable[[Tensor], Float[Tensor, "prompt"]]
_ROWS = 16384  # positions that run at once


def sweep(
    model: Model,
    directions: Direction | Sequence[Direction],
    prompts: Any,
    coefficients: Sequence[float | int],
    metrics: Sequence[Metric] | None = None,
    *,
    answer: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    wrong: Int[Tensor, "prompt"] | Int[Tensor, "prompt k"] | None = None,
    intervene: Intervene | None = None,
    when: AnyPositions = everywhere,
    neutral: Any = None,
    judges: Mapping[str, Judge] | None = None,
    max_new_tokens: int = 20,
    with_controls: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Metrics of steered runs: `value` (layer, coefficient, prompt[, metric]).

    directions: one for each layer, or one with several places. prompts: a Task, whose answers and positions
    the metrics read; or prompts, with `answer` and `wrong` token ids, read at the last token. metrics: of
    `interp.tasks`, `Entropy`, ...; default: the task's own or entropy, and KL from the unsteered run.
    intervene: (direction, coefficient) -> interventions; default: add the vector times the coefficient.
    neutral: prompts of neutral text, for `neutral_loss` (layer, coefficient, neutral_prompt) in nats a token.
    judges: functions of the tokens generated [prompt, pos] to numbers [prompt], a variable each.

    Variables `random` and `shuffled` are `value` for a random direction and that of shuffled labels, of equal
    norm; `base` (prompt[, metric]) is the unsteered run. Coordinate `in_norms` (layer, coefficient) is the
    length of what is added, in median norms of the stream there. Cost: see `suffix`. Raises ValueError before
    any pass. The model is left as found.
    """
    steps = [float(each) for each in coefficients]
    finite("coefficients", torch.tensor(steps, dtype=torch.float64))
    parts = _by_layer(model, directions, steps)
    reads = _reads(model, prompts, answer, wrong, metrics)
    sets: dict[str, list[Direction | None]] = {"value": list(parts)}
    sets |= controls(parts, seed) if with_controls else {}
    job = _Job(model, parts, steps, intervene, when)
    total = len(parts) * len(steps) * len(reads.runs) * len(sets)
    found: dict[str, np.ndarray] = {}
    with tqdm(total=total, disable=not progress, desc="sweep", unit="run") as bar:
        run = job.runner(reads)
        for name, members in sets.items():
            found[name] = job.measure(run, reads, members, bar.update)
    every = torch.arange(len(reads.runs), device=reads.runs.base.device)
    base = _score(reads, run.clean, run.clean, every)
    out = _dataset(model, parts, steps, reads, found, base.cpu().numpy(), job.when, seed)
    if neutral is not None:
        texts = _reads(model, neutral, None, None, [Loss()])
        loss = job.measure(job.runner(texts), texts, list(parts), lambda n: None)
        out["neutral_loss"] = (("layer", "coefficient", "neutral_prompt"), loss[..., 0])
    for name, judge in (judges or {}).items():
        out[name] = (("layer", "coefficient", "prompt"), job.judged(prompts, judge, max_new_tokens))
    return out


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

    def runner(self, reads: Reads) -> Suffix | Whole:
        return runner(self.model, reads, [self.made(part, 0.0) for part in self.parts])

    def measure(
        self,
        run: Suffix | Whole,
        reads: Reads,
        members: Sequence[Direction | None],
        done: Callable[[int], Any],
    ) -> np.ndarray:
        """Metrics [layer, coefficient, prompt, metric]; NaN where a control does not exist."""
        n, device = len(reads.runs), reads.runs.base.device
        out = np.full((len(members), len(self.steps), n, len(reads.metrics)), np.nan)
        size = max(1, _ROWS // reads.runs.n_pos)
        pairs = torch.cartesian_prod(torch.arange(len(self.steps)), torch.arange(n)).view(-1, 2)
        groups = [pairs] if self.intervene is None else list(pairs.split(n))
        for layer, part in enumerate(members):
            for rows in (rows for group in groups for rows in group.split(size)):
                if part is not None:
                    step, prompt = rows[:, 0], rows[:, 1].to(device)
                    values = torch.tensor(self.steps, dtype=torch.float64, device=device)[step.to(device)]
                    made = self.made(part, values if self.intervene is None else self.steps[int(step[0])])
                    logits = run.run(prompt, made)
                    scores = _score(reads, logits, run.clean[prompt], prompt)
                    out[layer, step.numpy(), rows[:, 1].numpy()] = scores.cpu().numpy()
                done(len(rows))
        return out

    def judged(self, prompts: Any, judge: Judge, n_new: int) -> np.ndarray:
        """A judge's numbers [layer, coefficient, prompt] on what is generated."""
        rows = read(self.model, prompts)
        out = np.full((len(self.parts), len(self.steps), len(rows)), np.nan)
        for layer, part in enumerate(self.parts):
            for i, step in enumerate(self.steps):
                whole = generate(self.model, rows, self.made(part, step), max_new_tokens=n_new)
                column = rows.lengths[:, None] + torch.arange(n_new, device=whole.device)
                value = judge(whole.gather(1, column))
                if not isinstance(value, Tensor) or value.shape != (len(rows),):
                    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise ValueError(f"the judge returned {got}; return a tensor of shape ({len(rows)},).")
                out[layer, i] = value.double().cpu().numpy()
        return out


def _score(reads: Reads, logits: Tensor, clean: Tensor, prompt: Int[Tensor, "row"]) -> Tensor:
    """Every metric [row, metric] in float64, from the logits that are read of rows of the given prompts."""
    columns = (reads.column(reads.runs.answer), reads.column(reads.runs.wrong))
    parts = [measured(metric, reads, logits, clean, columns, prompt) for metric in reads.metrics]
    return torch.stack(parts, -1)


def _by_layer(
    model: Model, directions: Direction | Sequence[Direction], steps: list[float]
) -> list[Direction]:
    if not steps:
        raise ValueError("coefficients is empty. Give at least one; 0 is the unsteered run.")
    given = [directions] if isinstance(directions, Direction) else list(directions)
    parts = [part for direction in given for part in direction.check(model).split()]
    layers = [part.layer for part in parts]
    if len(set(layers)) != len(layers) or None in layers:
        raise ValueError(
            f"the directions are at layers {layers}; a sweep takes one for each layer. Sweep several methods "
            "one by one, and join the results with xarray.concat."
        )
    return sorted(parts, key=lambda part: part.layer or 0)


def _reads(
    model: Model, prompts: Any, answer: Tensor | None, wrong: Tensor | None, metrics: Sequence[Metric] | None
) -> Reads:
    is_task = hasattr(prompts, "clean") and hasattr(prompts, "answers")
    rows = read(model, prompts)
    device = rows.tokens.device
    if is_task:
        found = [prompts.answers.to(device), prompts.wrongs.to(device)]
        positions, several = prompts.last_position.to(device), prompts.reads
    else:
        found = [_columns(each, rows, name) for each, name in ((answer, "answer"), (wrong, "wrong"))]
        positions, several = rows.lengths - 1, None
    default: list[Metric] = [prompts.metric if is_task else Entropy(), KL()]
    chosen = tuple(default if metrics is None else metrics)
    _require_answers(chosen, found)
    runs = Runs(rows.tokens, rows.tokens, True, found[0], found[1], positions, rows.lengths, reads=several)
    return Reads(runs, chosen)


def _columns(ids: Tensor | None, rows: Prompts, name: str) -> Tensor:
    if ids is None:
        return torch.zeros((len(rows), 0), dtype=torch.long, device=rows.tokens.device)
    if len(ids) != len(rows):
        raise ValueError(f"{name} has {len(ids)} rows for {len(rows)} prompts. Give one a prompt.")
    return (ids if ids.ndim == 2 else ids[:, None]).to(rows.tokens.device)


def _require_answers(metrics: Sequence[Metric], found: list[Tensor]) -> None:
    if not metrics:
        raise ValueError("metrics is empty. Give at least one, as in metrics=[KL()].")
    for metric in metrics:
        needs = {"logit_diff": 2, "prob_diff": 2, "prob": 1, "log_prob": 1, "rank": 1}.get(metric.name, 0)
        if any(not ids.shape[1] for ids in found[:needs]):
            raise ValueError(f"{metric.name} needs answer= (and wrong=) token ids, or a Task.")


def _dataset(
    model: Model,
    parts: list[Direction],
    steps: list[float],
    reads: Reads,
    found: dict[str, np.ndarray],
    base: np.ndarray,
    when: AnyPositions,
    seed: int,
) -> xr.Dataset:
    dims = ("layer", "coefficient", "prompt", "metric")
    variables = {name: (dims, array) for name, array in found.items()}
    norms = [part.norms.get(part.place, float("nan")) for part in parts]
    lengths = [part.vector.double().norm().item() for part in parts]
    relative = np.array(lengths)[:, None] * np.array(steps, dtype=float) / np.array(norms)[:, None]
    out = xr.Dataset(
        {**variables, "base": (dims[2:], base)},
        coords={
            "layer": [part.layer for part in parts],
            "coefficient": np.array(steps, dtype=float),
            "prompt": np.arange(len(reads.runs)),
            "metric": [metric.name for metric in reads.metrics],
            "in_norms": (("layer", "coefficient"), relative),
            "place": ("layer", np.array([str(part.place) for part in parts], dtype=object)),
        },
        attrs={
            "method": "sweep",
            "direction_method": ", ".join(dict.fromkeys(part.method for part in parts)),
            "site": ", ".join(dict.fromkeys(part.site for part in parts)),
            "when": repr(when),
            "model": anatomy(model).name,
            "metric": ", ".join(metric.name for metric in reads.metrics),
            "unit": ", ".join(metric.unit for metric in reads.metrics),
            "better": ", ".join(metric.better for metric in reads.metrics),
            "seed": seed,
            "versions": json.dumps(versions()),
            "convention": "value = metric of the steered run; base = metric of the unsteered run",
        },
    )
    return out if len(reads.metrics) > 1 else out.squeeze("metric", drop=True)


class Whole:
    """Steered runs by the model itself, under hooks."""

    def __init__(self, model: Model, reads: Reads) -> None:
        self.model, self.reads = model, reads

    @cached_property
    def clean(self) -> Tensor:
        """Logits of the clean prompts, as `run` gives them."""
        return self.run(torch.arange(len(self.reads.runs), device=self.reads.runs.base.device), ())

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, vocab] or [row, pos, vocab], of the given prompts."""
        runs = self.reads.runs
        with torch.no_grad(), steer(self.model, *interventions, prompt_length=runs.lengths[prompt]):
            out = logits(self.model, runs.base[prompt])
        out = (
            out
            if self.reads.everywhere
            else out[torch.arange(len(out), device=out.device), runs.positions[prompt]]
        )
        if self.reads.columns is not None:
            out = out[..., self.reads.columns]
        return widened(out)


class Suffix:
    """Steered runs from the steered layer on, by the model's weights."""

    def __init__(self, weights: Weights, reads: Reads, layers: set[int]) -> None:
        self.weights, self.reads = weights, reads
        self.readout = Readout(self.weights, reads)
        self.pre: dict[int, Tensor] = {}

        def keep(x: Tensor, layer: int) -> Tensor:
            self.pre[layer] = x
            return x

        kept = {("resid_pre", layer): partial(keep, layer=layer) for layer in layers}
        with torch.no_grad():
            start = self.weights.embed(reads.runs.base)
            self.clean = self.readout.whole_runs(forward(self.weights, start, 0, kept))

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, column] or [row, pos, column], of the given prompts."""
        runs = self.reads.runs
        first = min((each.first_layer for each in interventions), default=0)
        start = self.pre[first][prompt] if interventions else self.weights.embed(runs.base[prompt])
        clock = Clock(runs.lengths[prompt])
        clock.start(runs.base[prompt])
        clock.tick(0, None, (start.shape[0], start.shape[1]), start.device)
        with torch.no_grad():
            final = forward(self.weights, start, first, taps(interventions, clock))
            if self.reads.everywhere:
                return self.readout.logits(final.flatten(0, 1)).unflatten(0, final.shape[:2])
            return self.readout.logits(
                final[torch.arange(len(final), device=final.device), runs.positions[prompt]]
            )


def runner(model: Model, reads: Reads, made: Sequence[Sequence[Intervention]]) -> Suffix | Whole:
    """`Suffix` where the model's weights give its logits, else `Whole`.

    made: the interventions of each run that is to come, for the layers at which they start.
    """
    runs = reads.runs
    weights = own_weights(model, [each for run in made for each in run], runs.base, runs.lengths)
    if isinstance(weights, str):
        return Whole(model, reads)
    return Suffix(weights, reads, {min(each.first_layer for each in run) for run in made if run})


@dataclass(frozen=True)
class Entropy(Metric):
    """Entropy of the next-token distribution at the answer position."""

    name = "entropy"
    unit = "nats"
    better = "lower"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        log = reading.logits.log_softmax(-1)
        return -(log.exp() * log).sum(-1)
