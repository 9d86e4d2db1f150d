"""Gates: `Mary red John red =` → `red`. `and_gate`: a colour that both have; `or_gate`: one that either has.

In every pair both hold one colour, and neither does in the corrupt prompt (`Mary none John none =`, whose
answer is `none`). So in `and_gate` losing either is as bad as losing both, and in `or_gate` losing one is
nothing. The pairs are not mirrored: the mirror of one gate is the other.

With n=None: every input of the hand-built model, the two places holding different things as well, each with a
corrupt prompt drawn by the seed. For `or_gate` these are the prompts that name one colour at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from interp.models.handmade.gates import COLOURS, NAMES, NONE
from interp.tasks.handmade import items
from interp.tasks.handmade.items import Item
from interp.tasks.metrics import Metric
from interp.tasks.task import Task


def and_gate(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | None = None) -> Task:
    """The colour that both have: n pairs, or every input (n=None)."""
    return _task(model, "and_gate", lambda a, b: a if a == b else NONE, n, seed, metric)


def or_gate(model: Any, n: int | None = 64, seed: int = 0, *, metric: Metric | None = None) -> Task:
    """The colour that either has: n pairs, or every input that names one colour at most (n=None)."""
    return _task(model, "or_gate", _either, n, seed, metric)


def _either(a: str, b: str) -> str | None:
    named = {a, b} - {NONE} or {NONE}
    return named.pop() if len(named) == 1 else None


def _task(
    model: Any,
    name: str,
    gate: Callable[[str, str], str | None],
    n: int | None,
    seed: int,
    metric: Metric | None,
) -> Task:
    people = list(itertools.permutations(NAMES, 2))
    if n is not None:
        pairs = [(_item(who, c, c, c), _item(who, NONE, NONE, NONE)) for who in people for c in COLOURS]
        return items.build(model, name, items.drawn(pairs, n, seed), seed, metric)
    held = itertools.product(people, (*COLOURS, NONE), (*COLOURS, NONE))
    found = [_item(who, a, b, answer) for who, a, b in held if (answer := gate(a, b)) is not None]
    return items.build(model, name, items.every(found, seed), seed, metric)


def _item(who: tuple[str, str], a: str, b: str, answer: str) -> Item:
    return Item(f"{who[0]} {a} {who[1]} {b} =", answer)
