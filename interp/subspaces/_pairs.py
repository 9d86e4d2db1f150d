"""Pairs of prompts for interchange: whose value goes where, and the answer that is expected then.

1. Prompts that the model answers wrongly are left out.
2. Prompts are split by content (equal texts and mirrored pairs stay together): 50 % to learn from, 25 % to
   stop by, 25 % for the figures. Both prompts of a pair come from one part.
3. A pair (own, source) has another value of the variable in each. Where every other variable could differ
too,
   it may: a subspace learnt where only one differs need not be that of the variable.
4. Figures are of informative pairs: the expected answer is neither prompt's own, so that neither doing
nothing
   nor exchanging everything can be right. Of a variable that is the answer itself there are none: then it is
   another than the prompt's own, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp import results
from interp._brief import brief
from interp._verbs import verb
from interp.tasks import Task
from interp.tasks._variables import variable

PARTS = ("train", "stop", "test")
_SHARES = (0.5, 0.25, 0.25)


@dataclass(frozen=True, eq=False)
class Pairs:
    """own, source: rows of a task's clean prompts; expected: token ids [pair]; choices: answers compared.

    informative: whether the expected answer is neither prompt's own.
    """

    task: Task
    variable: str
    own: Int[Tensor, "pair"]
    source: Int[Tensor, "pair"]
    expected: Int[Tensor, "pair"]
    choices: Int[Tensor, "choice"]
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.own)

    @property
    def informative(self) -> Tensor:
        other = (self.task.answers.cpu()[self.source] == self.expected[:, None]).any(1)
        return self.other_than_own & ~other

    @property
    def other_than_own(self) -> Tensor:
        """Whether the expected answer is another than the prompt's own."""
        return ~(self.task.answers.cpu()[self.own] == self.expected[:, None]).any(1)

    @property
    def judged(self) -> str:
        """What an accuracy on these pairs can be reached by."""
        if bool(self.informative.all()):
            return "the expected answer is neither prompt's own"
        return "the expected answer may be the source's own: exchanging everything can be right too"

    @property
    def target(self) -> Int[Tensor, "pair"]:
        """The expected answers as indices into the choices."""
        return torch.searchsorted(self.choices, self.expected)

    def take(self, rows: Tensor | slice) -> Pairs:
        parts = (self.own[rows], self.source[rows], self.expected[rows])
        return Pairs(self.task, self.variable, *parts, self.choices)


@verb
def pairs(task: Task, variable: str, *, n: int = 256, seed: int = 0) -> dict[str, Pairs]:
    """Pairs of the task's clean prompts that exchange a variable: "train", "stop" and "test", n, n/2, n/2.

    At most so many: fewer where the prompts do not give more. No forward pass: prompts that the model answers
    wrongly are still in (`das` leaves them out).

    Raises ValueError for a variable that the task has not or that does not vary, and where a part of the
    split has no pair, or no informative one for the figures.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> parts = interp.subspaces.pairs(interp.tasks.ioi(model, n=32), "output_position", n=64)
        >>> len(parts["train"]), bool(parts["test"].informative.all())
        (64, True)
    """
    return split(task, variable, torch.ones(len(task), dtype=torch.bool), n, seed)


def split(task: Task, name: str, solved: Tensor, n: int, seed: int) -> dict[str, Pairs]:
    """`pairs` of the prompts marked in `solved`."""
    if not isinstance(n, int) or n < 4:
        raise ValueError(f"n is {n!r}; give a whole number of pairs, at least 4.")
    if task.positions.ndim > 1:
        raise ValueError("the task reads several positions a prompt; an interchange has one expected answer.")
    values = variable(task.variables, name)
    generator = torch.Generator().manual_seed(seed)
    known = values.outcomes[values.outcomes >= 0].unique()
    choices = torch.unique(torch.cat((known, task.answers[task.answers >= 0].cpu())))
    units = torch.as_tensor(results.prompt_units(task))
    parts = _parts(units, solved, generator)
    out: dict[str, Pairs] = {}
    for part, rows, size in zip(PARTS, parts, (n, n // 2, n // 2)):
        drawn = _drawn(rows, lambda own, source: values.intervene(own, source), task, name, choices)
        if part == "test":
            drawn = drawn.take(drawn.informative if bool(drawn.informative.any()) else drawn.other_than_own)
        if not len(drawn):
            raise ValueError(
                f"{len(rows)} prompts are left for {part!r}, and no two of them make a pair for {name!r}: "
                "the values must differ, and the expected answer not be the prompt's own. Give more prompts."
            )
        out[part] = drawn.take(torch.randperm(len(drawn), generator=generator)[:size])
    return out


def _parts(units: Tensor, solved: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Rows of the solved prompts in three parts, by whole units."""
    labels = units[solved].unique()
    order = labels[torch.randperm(len(labels), generator=generator)]
    first, second = (round(sum(_SHARES[:k]) * len(order)) for k in (1, 2))
    pieces = (order[:first], order[first:second], order[second:])
    return [(torch.isin(units, piece) & solved).nonzero().flatten() for piece in pieces]


def _drawn(
    rows: Tensor, intervene: Callable[[Tensor, Tensor], Tensor], task: Task, name: str, choices: Tensor
) -> Pairs:
    """All pairs of some prompts that exchange another value and have an expected answer."""
    own, source = rows.repeat_interleave(len(rows)), rows.repeat(len(rows))
    values, expected = task.variables[name].values, intervene(own, source)
    kept = (values[own] != values[source]) & (expected >= 0)
    return Pairs(task, name, own[kept], source[kept], expected[kept], choices)
