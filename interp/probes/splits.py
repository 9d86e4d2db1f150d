"""Held-out prompts that share nothing with the training prompts, and labels shuffled as the data allows.

A held-out prompt that is also a training prompt, or that says the same of the same name, is known and not
predicted: with random labels on prompts that come three times, a probe is right in all of them. So prompts
stand in *units* that a split keeps whole: equal prompts always, and prompts of one group (`groups=`: the
person, the template, the document) by the caller's word.

Labels are shuffled as the units are exchangeable: whole units among themselves where each is of one class,
and within a unit that has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.prompts import Prompts

Groups = tuple[Sequence[Any], Sequence[Any]]


def units(positive: Prompts, negative: Prompts, groups: Groups | None = None) -> Int[Tensor, "prompt"]:
    """The unit of each prompt, the positive ones first, numbered from 0.

    groups: a label of each prompt, (positive, negative). Prompts are of one unit when they are equal, or of
    one group, or linked by such. Raises ValueError for labels that are not one a prompt.
    """
    keys: list[list[Any]] = [[("tokens", *row)] for side in (positive, negative) for row in token_rows(side)]
    if groups is not None:
        sizes = [len(positive), len(negative)]
        if len(groups) != 2 or [len(side) for side in groups] != sizes:
            raise ValueError(
                f"groups has {[len(side) for side in groups]} labels for {sizes} prompts; give (positive, "
                "negative) with a label of each prompt."
            )
        for row, label in zip(keys, (*groups[0], *groups[1])):
            row.append(("group", label))
    return joined(keys)


def token_rows(side: Prompts) -> list[list[int]]:
    """The real tokens of each prompt."""
    return [row[:length] for row, length in zip(side.tokens.tolist(), side.lengths.tolist())]


def linked(*numbers: Int[Tensor, "prompt"]) -> Int[Tensor, "prompt"]:
    """The units of prompts that share any of several numbers."""
    return joined([list(enumerate(row)) for row in zip(*(each.tolist() for each in numbers))])


def joined(keys: Sequence[Sequence[Any]]) -> Int[Tensor, "prompt"]:
    """Rows that share a key, directly or through others, get one number."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Any, int] = {}
    for i, row in enumerate(keys):
        for key in row:
            parent[root(i)] = root(first.setdefault(key, i))
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(root(i), len(numbers)) for i in range(len(keys))])


def hold_out(
    unit: Int[Tensor, "prompt"],
    sizes: tuple[int, int],
    share: float,
    generator: torch.Generator,
    least: int = 2,
) -> Bool[Tensor, "prompt"]:
    """Which prompts are held out: whole units, about `share` of each class, `least` or more on either side.

    sizes: prompts of the positive and of the negative class. Raises ValueError where no such split is found.
    """
    label = torch.arange(len(unit)) < sizes[0]
    counts = [torch.zeros(int(unit.max()) + 1).index_add_(0, unit, side.float()) for side in (label, ~label)]
    if len(unit) == len(counts[0]):
        return _single(sizes, share, generator, least)
    wanted = [min(max(least, round(share * n)), n - least) for n in sizes]
    for _ in range(50):
        chosen = _drawn(counts, wanted, generator)
        held = [int(count[chosen].sum()) for count in counts]
        if all(least <= h <= n - least for h, n in zip(held, sizes)):
            return chosen[unit]
    raise ValueError(
        f"the {sizes[0]} and {sizes[1]} prompts are {len(counts[0])} units (equal prompts and groups stay "
        f"together), which do not split so that {least} prompts of each class are on either side. Give more "
        "prompts, smaller groups, or held_out=(positive, negative)."
    )


def _single(sizes: tuple[int, int], share: float, generator: torch.Generator, least: int) -> Tensor:
    """Every prompt a unit of its own: the share of each class exactly."""
    sides = []
    for n in sizes:
        held = torch.zeros(n, dtype=torch.bool)
        held[torch.randperm(n, generator=generator)[: min(max(least, round(share * n)), n - least)]] = True
        sides.append(held)
    return torch.cat(sides)


def _drawn(counts: list[Tensor], wanted: list[int], generator: torch.Generator) -> Bool[Tensor, "unit"]:
    """Units in random order, each taken where no class that it has is full yet."""
    chosen = torch.zeros(len(counts[0]), dtype=torch.bool)
    held = [0.0, 0.0]
    for number in torch.randperm(len(chosen), generator=generator).tolist():
        sizes = [float(count[number]) for count in counts]
        if all(not size or have + size / 2 <= want for size, have, want in zip(sizes, held, wanted)):
            chosen[number] = True
            held = [have + size for have, size in zip(held, sizes)]
    return chosen


def shuffled(
    label: Float[Tensor, "prompt"], unit: Int[Tensor, "prompt"], generator: torch.Generator
) -> Float[Tensor, "prompt"]:
    """The labels exchanged among units of one class, and within units of both."""
    numbers, index = unit.unique(return_inverse=True)
    if len(numbers) == len(label):
        return label[torch.randperm(len(label), generator=generator)]
    total = torch.zeros(len(numbers), dtype=label.dtype).index_add_(0, index, label)
    size = torch.bincount(index)
    mixed = (total > 0) & (total < size)
    out = label.clone()
    pure = (~mixed).nonzero().flatten()
    of_unit = (total / size).clone()
    of_unit[pure] = of_unit[pure[torch.randperm(len(pure), generator=generator)]]
    whole = ~mixed[index]
    out[whole] = of_unit[index][whole]
    for number in mixed.nonzero().flatten().tolist():
        rows = (index == number).nonzero().flatten()
        out[rows] = label[rows[torch.randperm(len(rows), generator=generator)]]
    return out
