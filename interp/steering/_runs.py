"""Steered runs that start from the clean stream at the steered layer, and what metrics read of them.

1. Run the clean prompts once; keep the stream before the layers where an intervention comes first.
2. A steered run starts there. Runs of many coefficients stand side by side in the batch.
3. Only the logits that the metrics read are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._arguments import shown
from interp.engine.forward import forward
from interp.engine.readout import Readout, Reads, measured, widened
from interp.engine.runs import Runs
from interp.experiment import Metrics, check_metric
from interp.models import Model, anatomy, logits
from interp.models.parts import Weights
from interp.prompts import Prompts, read
from interp.steering._clock import Clock
from interp.steering._intervention import Intervention
from interp.steering._steer import own_weights, steered, taps
from interp.tasks import vocabulary
from interp.tasks.metrics import KL, Metric, Reading


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked: prompts, what the metrics read of them, and the task if they are one."""

    rows: Prompts
    reads: Reads
    task: Any = None

    def take(self, prompts: Int[Tensor, "prompt"]) -> Question:
        """The same of some prompts."""
        return Question(
            self.rows[prompts], Reads(self.reads.runs.take(prompts), self.reads.metrics), self.task
        )


@dataclass(frozen=True)
class Entropy(Metric):
    """Entropy of the next-token distribution at the answer position."""

    name = "entropy"
    unit = "nats"
    better = "lower"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        log = reading.logits.log_softmax(-1)
        return -(log.exp() * log).sum(-1)


def question_of(
    model: Model,
    prompts: Any,
    mask: Tensor | None,
    answer: Tensor | None,
    wrong: Tensor | None,
    metric: Metrics | None,
) -> Question:
    is_task = hasattr(prompts, "clean") and hasattr(prompts, "answers")
    rows = read(model, prompts, mask)
    anatomy(model).require_one_batch(rows.lengths)
    device = rows.tokens.device
    if is_task:
        if answer is not None or wrong is not None:
            raise ValueError("a Task has answers of its own; leave answer= and wrong= out.")
        ids = [prompts.answers.to(device), prompts.wrongs.to(device)]
        positions, several = prompts.last_position.to(device), prompts.reads
    else:
        size = vocabulary.size(model)
        ids = [_columns(each, rows, size, name) for each, name in ((answer, "answer"), (wrong, "wrong"))]
        positions, several = rows.lengths - 1, None
    own = prompts.metric if is_task else Entropy()
    default = (own,) if own.name == "kl" else (own, KL())
    chosen = default if metric is None else check_metric(metric, own)
    _require_answers(chosen, ids)
    runs = Runs(rows.tokens, rows.tokens, True, ids[0], ids[1], positions, rows.lengths, reads=several)
    return Question(rows, Reads(runs, chosen), prompts if is_task else None)


def _columns(ids: Tensor | None, rows: Prompts, size: int, name: str) -> Tensor:
    """Token ids by prompt [prompt, k], -1 where one has fewer. ValueError for what is none."""
    if ids is None:
        return torch.zeros((len(rows), 0), dtype=torch.long, device=rows.tokens.device)
    if len(ids) != len(rows):
        raise ValueError(f"{name} has {len(ids)} rows for {len(rows)} prompts. Give one a prompt.")
    ids = ids if ids.ndim == 2 else ids[:, None]
    if not ids.numel() or int(ids.min()) < -1 or int(ids.max()) >= size or bool((ids < 0).all(1).any()):
        raise ValueError(
            f"{name} is {shown(ids)}; give token ids from 0 to {size - 1}, one or more a prompt."
        )
    return ids.to(rows.tokens.device)


def _require_answers(metrics: Sequence[Metric], found: list[Tensor]) -> None:
    for metric in metrics:
        needs = {"logit_diff": 2, "prob_diff": 2, "prob": 1, "log_prob": 1, "rank": 1}.get(metric.name, 0)
        if any(not ids.shape[1] for ids in found[:needs]):
            raise ValueError(f"{metric.name} needs answer= (and wrong=) token ids, or a Task.")


def score(reads: Reads, logits: Tensor, clean: Tensor, prompt: Int[Tensor, "row"]) -> Tensor:
    """Every metric [row, metric] in float64, from the logits that are read of rows of the given prompts."""
    columns = (reads.column(reads.runs.answer), reads.column(reads.runs.wrong))
    parts = [measured(metric, reads, logits, clean, columns, prompt) for metric in reads.metrics]
    return torch.stack(parts, -1)


class Whole:
    """Steered runs by the model itself, under hooks."""

    engine = "reference"

    def __init__(self, model: Model, question: Question) -> None:
        self.model, self.rows, self.reads = model, question.rows, question.reads

    @cached_property
    def clean(self) -> Tensor:
        """Logits of the clean prompts, as `run` gives them."""
        return self.run(torch.arange(len(self.reads.runs), device=self.reads.runs.base.device), ())

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, vocab] or [row, pos, vocab], of the given prompts."""
        runs = self.reads.runs
        with torch.no_grad(), steered(self.model, interventions, Clock(self.rows[prompt])):
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

    engine = "fast"

    def __init__(self, weights: Weights, question: Question, layers: set[int]) -> None:
        self.weights, self.rows, self.reads = weights, question.rows, question.reads
        reads = self.reads
        self.readout = Readout(self.weights, reads)
        self.pre: dict[int, Tensor] = {}

        def keep(x: Tensor, layer: int) -> Tensor:
            self.pre[layer] = x
            return x

        kept = {("resid_pre", layer): partial(keep, layer=layer) for layer in layers}
        with torch.no_grad():
            start = self.weights.embed(reads.runs.base)
            self.clean = self.readout.whole_runs(forward(self.weights, start, 0, kept)).to(start.device)

    def run(self, prompt: Int[Tensor, "row"], interventions: Sequence[Intervention]) -> Tensor:
        """Logits that are read, [row, column] or [row, pos, column], of the given prompts."""
        runs = self.reads.runs
        first = min((each.first_layer for each in interventions), default=0)
        if interventions:
            start = self.pre[first][prompt.to(self.pre[first].device)]
        else:
            start = self.weights.embed(runs.base[prompt])
        clock = Clock(self.rows[prompt])
        clock.start(runs.base[prompt])
        clock.tick(0, None, (start.shape[0], start.shape[1]), start.device)
        with torch.no_grad():
            final = forward(self.weights, start, first, taps(interventions, clock))
            if not self.reads.everywhere:
                final = final[torch.arange(len(final)), runs.positions[prompt].to(final.device)][:, None]
            found = self.readout.logits(final.flatten(0, 1)).unflatten(0, final.shape[:2]).to(prompt.device)
            return found if self.reads.everywhere else found[:, 0]


def runner(
    model: Model, question: Question, made: Sequence[Sequence[Intervention]], engine: str, n_runs: int
) -> Suffix | Whole:
    """`Suffix` where the model's weights give its logits, else `Whole`, which engine="auto" warns of.

    made: the interventions of each run that is to come, for the layers at which they start; n_runs: how many
    runs of a prompt are to come.
    """
    runs = question.reads.runs
    every = [each for run in made for each in run]
    instead = f"{n_runs:,} whole passes of {len(runs):,} prompts through the model and its hooks"
    weights = own_weights(model, every, runs.base, runs.lengths, engine=engine, instead=instead)
    if weights is None:
        return Whole(model, question)
    return Suffix(weights, question, {min(each.first_layer for each in run) for run in made if run})
