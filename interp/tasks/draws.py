"""Distinct random draws for the task families: no prompt twice, the templates in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any


def require_room(n: int, room: int) -> None:
    """At least as many different prompts as wanted."""
    if n > room:
        raise ValueError(f"n is {n}, but the words that the tokenizer has give only {room} prompts.")


def distinct_pairs(
    room: Mapping[int, int], pick: Callable[[int], tuple[Any, ...]], pairs: int, rng: random.Random
) -> list[tuple[Any, ...]]:
    """Distinct (template, *pick(template)), one for each mirrored pair of prompts.

    room: how many different values `pick` can give for each template. Templates take turns in random order;
    one that is used up drops out.
    """
    require_room(2 * pairs, 2 * sum(room.values()))
    order = sorted(room)
    rng.shuffle(order)
    left = dict(room)
    drawn: dict[tuple[Any, ...], None] = {}
    turn = 0
    while len(drawn) < pairs:
        template = order[turn % len(order)]
        if left[template]:
            item = (template, *pick(template))
            if item in drawn:
                continue
            drawn[item] = None
            left[template] -= 1
        turn += 1
    return list(drawn)
