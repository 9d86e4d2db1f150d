"""A task's metric under interventions, prompt by prompt."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine.readout import Reads, Scores
from interp.engine.runs import Runs
from interp.models import Model, anatomy, logits
from interp.steering.intervention import flat
from interp.steering.steer import steer
from interp.tasks import Task
from interp.tasks.metrics import Metric

_ROWS = 128


def measure(
    model: Model, task: Task, *interventions: Any, metric: Metric | None = None
) -> Float[Tensor, "prompt"]:
    """The metric (default: the task's) of each clean prompt under the interventions, in float64.

    Cost: two forward passes of each prompt, of which one is plain. Raises ValueError, before any pass, for
    interventions that the model cannot take. The model is left as found.
    """
    chosen = task.metric if metric is None else metric
    made = [each.check(model) for each in flat(interventions)]
    found = [_rows(model, task[start : start + _ROWS], made, chosen) for start in range(0, len(task), _ROWS)]
    return torch.cat(found)


def _rows(model: Model, task: Task, made: list[Any], metric: Metric) -> Tensor:
    device = anatomy(model).device
    clean, lengths = task.clean.to(device), task.lengths.to(device)
    answers = (task.answers.to(device), task.wrongs.to(device))
    scores = Scores(Reads(Runs(clean, clean, True, *answers, task.positions.to(device), lengths), (metric,)))
    with torch.no_grad():
        plain = scores.pick(logits(model, clean))
        with steer(model, *made, prompt_length=lengths):
            steered = scores.pick(logits(model, clean))
        return scores(steered, plain)[:, 0]
