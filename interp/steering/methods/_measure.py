"""A task's metrics under interventions, beside those of the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import verb
from interp.engine.readout import Reads, Scores
from interp.engine.runs import Runs
from interp.experiment import Metrics, check_metric, check_task
from interp.models import Model, anatomy, logits
from interp.steering._intervention import flat
from interp.steering._steer import steer
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric

_ROWS = 128


@verb
def measure(
    model: Model, task: Task, *interventions: Any, metric: Metrics | None = None
) -> Float[Tensor, "*prompt_metric"]:
    """The metric (default: the task's) of each clean prompt under the interventions, in float64: [prompt].

    A sequence of metrics gives [prompt, metric]. Cost: a forward pass of each prompt, and a plain one with
    interventions. Raises ValueError, before any pass, for interventions that the model cannot take. The model
    is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> tuple(methods.measure(model, task).shape)
        (8,)
    """
    check_task(task, anatomy(model), model)
    chosen = check_metric(metric, task.metric)
    made = [each.check(model) for each in flat(interventions)]
    steered = Steered(model, task, chosen)
    values = steered(*made) if made else steered.clean
    return values if isinstance(metric, (tuple, list)) else values[:, 0]


def pieces(task: Task) -> list[Task]:
    """The task in parts that run in one batch each."""
    return [task[start : start + _ROWS] for start in range(0, len(task), _ROWS)]


def signs_of(metric: Sequence[Metric]) -> Float[Tensor, "metric"]:
    """What turns rises of metrics into effects that are positive when they help, in float64."""
    return torch.tensor([each.sign for each in metric], dtype=torch.float64)


def with_kl(metric: Sequence[Metric]) -> tuple[tuple[Metric, ...], int]:
    """The metrics and KL, if it is not among them; and which one it is."""
    names = [each.name for each in metric]
    if KL.name in names:
        return tuple(metric), names.index(KL.name)
    return (*metric, KL()), len(metric)


class Steered:
    """Metrics of a task that was checked, under one set of interventions after another.

    What they are compared with, the model as it is, runs once: when this is made. `clean` [prompt, metric] is
    its metrics, float64. watch: interventions that look on in that pass and change nothing.
    """

    def __init__(self, model: Model, task: Task, metric: Sequence[Metric], *watch: Any) -> None:
        self.model, self.metric = model, tuple(metric)
        self.parts = [self._scores(part) for part in pieces(task)]
        keep = (
            len(self.parts) == 1 or not self.parts[0].reads.everywhere
        )  # of all positions: one batch at most
        self._plain, clean = [], []
        for scores in self.parts:
            plain = self._logits(scores, *watch)
            clean.append(scores(plain, plain))
            self._plain.append(plain if keep else None)
        self.clean = torch.cat(clean)

    def __call__(self, *interventions: Any) -> Float[Tensor, "prompt metric"]:
        """Metrics under the interventions, float64. Cost: a pass of each prompt."""
        values = []
        for scores, plain in zip(self.parts, self._plain):
            plain = self._logits(scores) if plain is None else plain
            values.append(scores(self._logits(scores, *interventions), plain))
        return torch.cat(values)

    def effect(self, *interventions: Any) -> Float[Tensor, "prompt metric"]:
        """What the interventions change, positive where it helps, float64 on the processor."""
        return signs_of(self.metric) * (self(*interventions) - self.clean).cpu()

    def _scores(self, task: Task) -> Scores:
        device = anatomy(self.model).device
        clean, lengths = task.clean.to(device), task.lengths.to(device)
        answers = (task.answers.to(device), task.wrongs.to(device))
        runs = Runs(clean, clean, True, *answers, task.last_position.to(device), lengths, reads=task.reads)
        return Scores(Reads(runs, self.metric))

    def _logits(self, scores: Scores, *interventions: Any) -> Tensor:
        """The logits that are read, under the interventions."""
        runs = scores.reads.runs
        with torch.no_grad():
            if not interventions:
                return scores.pick(logits(self.model, runs.clean))
            with steer(self.model, *interventions, prompt_length=runs.lengths):
                return scores.pick(logits(self.model, runs.clean))
