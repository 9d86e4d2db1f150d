"""How well a model does a task: which clean prompts it gets right, which corrupt ones wrong.

A run is right when the total probability of the answers exceeds that of the wrong answers; with one of each,
when the answer's logit is the greater. Nothing is dropped unless asked for, and then it is counted.

A method that explains a behaviour says when there is none: `warn_unsolved` of the clean accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import warn
from interp.tasks._shifts import shift_warnings, telling_run
from interp.tasks._validate import require
from interp.tasks.metrics import Metric

FLOOR = 0.5  # accuracy below which a model is taken not to do a task; about chance with one wrong answer


class UnsolvedTask(UserWarning):
    """The model does not do the task: it is right in fewer of the clean prompts than the floor.

    `warnings.simplefilter("ignore", interp.tasks.UnsolvedTask)` silences it, for a model that need not.
    """


@dataclass(frozen=True, eq=False)
class TaskReport:
    """What `Task.check` found. `problems` stop an analysis, `notes` should be read before it."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    clean_right: Bool[Tensor, "prompt"] | None = None
    corrupt_wrong: Bool[Tensor, "prompt"] | None = None

    @property
    def accuracy(self) -> float:
        """Share of prompts whose clean run is right."""
        return float("nan") if self.clean_right is None else self.clean_right.double().mean().item()

    @property
    def corrupted(self) -> float:
        """Share of prompts whose corrupt run is wrong."""
        return float("nan") if self.corrupt_wrong is None else self.corrupt_wrong.double().mean().item()

    def __str__(self) -> str:
        lines = [*self.problems, *self.notes]
        if self.corrupt_wrong is not None:
            lines.insert(0, f"corrupt wrong in {_count(self.corrupt_wrong)}")
        if self.clean_right is not None:
            lines.insert(0, f"clean right in {_count(self.clean_right)}")
        return "\n".join(lines)


def _count(flags: Bool[Tensor, "prompt"]) -> str:
    return f"{int(flags.sum())} of {len(flags)} prompts"


def check(task: Any, model: Any, *, floor: float = FLOOR, batch_size: int = 32) -> TaskReport:
    """All problems at once; without any, the accuracy too. Warns of each note."""
    problems = tuple(task.problems(model))
    notes = shift_warnings(task.clean, task.corrupt, telling_run(task.clean)) + task.same_pairs()
    for note in notes:
        warn(note)
    if problems:
        return TaskReport(problems, tuple(notes))
    clean_right = solved(model, task.clean, task, batch_size)
    corrupt_wrong = ~solved(model, task.corrupt, task, batch_size) if task.has_corrupt else None
    if note := warn_unsolved(clean_right.double().mean().item(), floor, metric=(task.metric,)):
        notes.append(note)
    return TaskReport(problems, tuple(notes), clean_right, corrupt_wrong)


def warn_unsolved(accuracy: float, floor: float = FLOOR, *, metric: Sequence[Metric] = ()) -> str | None:
    """Warn, with the accuracy, when it is below the floor; the warning's text, or None.

    metric: the task's own and those measured; where none reads an answer, the answers are dummies.
    """
    if not accuracy < floor or (metric and not any(each.reads_answer for each in metric)):
        return None
    note = (
        f"the model is right in {100 * accuracy:.3g}% of the clean prompts, below the floor of "
        f"{100 * floor:.3g}%: there may be no behaviour to explain. Task.keep_solved keeps the solved pairs."
    )
    warn(note, UnsolvedTask)
    return note


def keep_solved(task: Any, model: Any, *, corrupt: bool = True, batch_size: int = 32) -> Any:
    """The pairs whose clean run is right and, with `corrupt`, whose corrupt run is wrong."""
    require(task.problems(model))
    keep = solved(model, task.clean, task, batch_size)
    if corrupt and task.has_corrupt:
        keep &= ~solved(model, task.corrupt, task, batch_size)
    rows = keep.nonzero().flatten()
    if not len(rows):
        raise ValueError(f"none of the {len(task)} pairs is solved by this model; there is nothing to keep.")
    if len(rows) < len(task):
        warn(f"{len(task) - len(rows)} of {len(task)} pairs dropped: not solved by this model.")
    return task[rows]


def solved(
    model: Any, tokens: Int[Tensor, "prompt pos"], task: Any, batch_size: int
) -> Bool[Tensor, "prompt"]:
    """Whether each row's run gives the answers more probability than the wrong answers."""
    if not hasattr(model, "modules"):
        raise ValueError(f"model is {shown(model)}; give a TransformerLens model, such as interp.load(...).")
    if any(module.training for module in model.modules()):
        raise ValueError(
            "the model is in train mode, or a part of it, so dropout would change its answers. Call "
            "model.eval() first."
        )
    positions = task.positions if task.reads is None else task.positions.clamp(min=0)
    logits = answer_logits(model, tokens, positions, batch_size)
    if task.reads is None:
        return right(logits, task.answers, task.wrongs)
    each = right(logits.flatten(0, 1), task.targets.flatten(0, 1), task.wrong_targets.flatten(0, 1))
    return (each.view_as(task.reads) | (task.reads < 0)).all(-1)


def right(
    logits: Float[Tensor, "prompt column"], answer: Int[Tensor, "prompt k"], wrong: Int[Tensor, "prompt j"]
) -> Bool[Tensor, "prompt"]:
    """Whether the answers (column indices, −1 is padding) have more total probability than the wrong ones.

    Where no wrong answer is given: whether an answer is the largest of all logits.
    """

    def mass(columns: Tensor) -> Tensor:  # log of the total, up to the same constant for both
        return logits.gather(-1, columns.clamp(min=0)).masked_fill(columns < 0, -torch.inf).logsumexp(-1)

    best = logits.gather(-1, answer.clamp(min=0)).masked_fill(answer < 0, -torch.inf).amax(-1) >= logits.amax(
        -1
    )
    return torch.where((wrong < 0).all(-1), best, mass(answer) > mass(wrong))


def answer_logits(
    model: Any, tokens: Int[Tensor, "prompt pos"], positions: Tensor, batch_size: int
) -> Tensor:
    """The logits at each row's answer position [prompt] or positions [prompt, read], in float32 or better."""
    parts = []
    with torch.no_grad():
        for rows in torch.arange(len(tokens), device=tokens.device).split(batch_size):
            logits = model(tokens[rows], return_type="logits").to(tokens.device)  # (batch, pos, column)
            item = torch.arange(len(rows), device=logits.device)
            picked = logits[item if positions.ndim == 1 else item[:, None], positions[rows]]
            parts.append(picked if picked.dtype == torch.float64 else picked.float())
    return torch.cat(parts)
