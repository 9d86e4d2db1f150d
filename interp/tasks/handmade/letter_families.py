"""Questions about the letters of a prompt: `xproportion` (is x the majority?) and `linear` (which is it?).

`y x w x x` → `yes`; `a c a a b` → `a`. The number of letters is odd, so that there are no ties.
With n=None: every input of the hand-built model of that name.
"""

from __future__ import annotations

import itertools
from typing import Any

from interp.models.handmade.letters import LINEAR_LETTERS, LONGEST, X_LETTERS
from interp.tasks.handmade import items
from interp.tasks.handmade.items import Item
from interp.tasks.metrics import Metric
from interp.tasks.task import Task


def xproportion(
    model: Any, n: int | None = 64, seed: int = 0, *, letters: int = 5, metric: Metric | None = None
) -> Task:
    """Is x more than half of the letters: n prompts in mirrored pairs, or every input (n=None)."""
    longest = LONGEST
    if letters % 2 == 0 or not 1 <= letters <= longest:
        raise ValueError(f"letters is {letters}; it must be odd, from 1 to {longest}.")
    lengths = range(1, longest + 1, 2) if n is None else [letters]
    found = [
        Item(" ".join(word), "yes" if 2 * word.count("x") > length else "no")
        for length in lengths
        for word in itertools.product(X_LETTERS, repeat=length)
    ]
    return items.of(model, "xproportion", found, n, seed, metric)


def linear(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | None = None) -> Task:
    """Which letter comes at least 3 times in 5: n prompts in mirrored pairs, or every input (n=None)."""
    length = LONGEST
    found = [
        Item(" ".join(word), letter)
        for word in itertools.product(LINEAR_LETTERS, repeat=length)
        for letter in LINEAR_LETTERS
        if 2 * word.count(letter) > length
    ]
    return items.of(model, "linear", found, n, seed, metric)
