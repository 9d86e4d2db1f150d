"""Reversal: `a c b b = b b` → `c`, the sequence before `=` said backwards, cut anywhere.

Prompts of one task have `letters` letters in all (before and after `=`), so that positions line up; the clean
and the corrupt prompt differ in letters and in the place of `=`. With n=None: every input of the hand-built
model `reverse`, of all lengths.
"""

from __future__ import annotations

import itertools
from typing import Any

from interp.models.handmade.reverse import LETTERS, LONGEST
from interp.tasks.handmade import items
from interp.tasks.handmade.items import Item
from interp.tasks.metrics import Metric
from interp.tasks.task import Task


def reverse(
    model: Any, n: int | None = 64, seed: int = 0, *, letters: int = 5, metric: Metric | None = None
) -> Task:
    """Say a sequence backwards: n prompts in mirrored pairs, or every input (n=None)."""
    lengths = range(2 * LONGEST) if n is None else [letters]
    found = [item for count in lengths for item in inputs(count)]
    if len(found) < 2:
        raise ValueError(f"letters is {letters}; a prompt has from 1 to {2 * LONGEST - 1}.")
    return items.of(model, "reverse", found, n, seed, metric)


def inputs(letters: int) -> list[Item]:
    """Every prompt with this many letters."""
    found = []
    for length in range(1, LONGEST + 1):
        said = letters - length
        if 0 <= said < length:
            for sequence in itertools.product(LETTERS, repeat=length):
                backwards = sequence[::-1]
                words = (*sequence, "=", *backwards[:said])
                found.append(Item(" ".join(words), backwards[said]))
    return found
