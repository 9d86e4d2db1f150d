"""The prompts of a family: distinct random draws, mirrored pairs, and the task of them.

A row is one clean and one corrupt prompt in token ids, with the answers of both. In a mirrored pair the
corrupt prompt of each row is the clean prompt of the other, and the answers are exchanged: a word that a
model likes better counts for and against equally often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from interp.tasks import _prompts
from interp.tasks._task import Task
from interp.tasks._validate import require
from interp.tasks.metrics import Metric


class Side(NamedTuple):
    """A prompt and the tokens that answer it."""

    tokens: list[int]
    answers: list[int]


class Row(NamedTuple):
    """One prompt pair in token ids."""

    clean: list[int]
    corrupt: list[int]
    answer: list[int]
    wrong: list[int]
    cluster: str


def contrast(clean: Side, corrupt: Side, cluster: str) -> Row:
    """The row in which what answers the corrupt prompt is wrong."""
    return Row(clean.tokens, corrupt.tokens, clean.answers, corrupt.answers, cluster)


def mirrored(one: Side, other: Side, cluster: str) -> list[Row]:
    """Two rows, each the other's reverse."""
    return [contrast(one, other, cluster), contrast(other, one, cluster)]


def cluster_name(family: str, template: int, pair: int, alone: bool) -> str:
    """The cluster of a prompt: its template, or its pair where all prompts have one template."""
    return f"{family} {template}, pair {pair}" if alone else f"{family} {template}"


def make(model: Any, rows: Sequence[Row], *, name: str, seed: int, metric: Metric | str | None) -> Task:
    """The task of these rows, checked against the model."""
    fields = _prompts.from_ids(
        model,
        clean=[row.clean for row in rows],
        corrupt=[row.corrupt for row in rows],
        answer=[row.answer for row in rows],
        wrong=[row.wrong for row in rows],
    )
    clusters = [row.cluster for row in rows]
    task = Task.from_tokens(**fields, metric=metric, name=name, seed=seed, template=clusters)
    require(task.problems(model))
    return task


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
