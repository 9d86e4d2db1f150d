"""The prompts of a family: distinct random draws, mirrored pairs, and the task of them, with named positions.

A row is one clean and one corrupt prompt in token ids, with the answers of both. In a mirrored pair the
corrupt prompt of each row is the clean prompt of the other, and the answers are exchanged: a word that a
model likes better counts for and against equally often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.tasks import _prompts, vocabulary
from interp.tasks._task import Task
from interp.tasks._validate import require
from interp.tasks.metrics import Metric

Marks = Mapping[str, list[int]]  # columns by name


class Side(NamedTuple):
    """A prompt, the tokens that answer it, and its named positions."""

    tokens: list[int]
    answers: list[int]
    spans: Marks = MappingProxyType({})


class Row(NamedTuple):
    """One prompt pair in token ids."""

    clean: list[int]
    corrupt: list[int]
    answer: list[int]
    wrong: list[int]
    cluster: str
    spans: Marks = MappingProxyType({})  # of the clean prompt


def contrast(clean: Side, corrupt: Side, cluster: str) -> Row:
    """The row in which what answers the corrupt prompt is wrong."""
    return Row(clean.tokens, corrupt.tokens, clean.answers, corrupt.answers, cluster, clean.spans)


def written(
    model: Any,
    template: str,
    slots: Mapping[str, str],
    names: Mapping[str, str | tuple[str, int]],
    prepend_bos: bool | None,
) -> tuple[list[int], Marks]:
    """The tokens of a template with its slots filled, and the columns of some of them.

    names: a span's slot, or slot and which of its occurrences (0 the first). A slot that the template does
    not have, and every slot where the tokenizer does not say where its tokens stand, gives no span.
    """
    text, letters = filled(template, slots)
    ids = vocabulary.encode(model, text, prepend_bos)
    return ids, marks(model, text, ids, _chosen(letters, names))


def marks(model: Any, text: str, ids: list[int], letters: Mapping[str, tuple[int, int]]) -> Marks:
    """The columns of named letters, from start to stop; none where the tokenizer does not say."""
    offsets = vocabulary.offsets(model, text, ids) or []
    columns = {name: vocabulary.columns(offsets, where) for name, where in letters.items()}
    return {name: at for name, at in columns.items() if at}


def filled(template: str, slots: Mapping[str, str]) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """The text, and where in it every slot stands, occurrence by occurrence."""
    text, letters = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal
        if slot is not None:
            letters.setdefault(slot, []).append((len(text), len(text) + len(slots[slot])))
            text += slots[slot]
    return text, letters


def _chosen(
    letters: Mapping[str, list[tuple[int, int]]], names: Mapping[str, str | tuple[str, int]]
) -> dict[str, tuple[int, int]]:
    at = {name: (where, 0) if isinstance(where, str) else where for name, where in names.items()}
    return {
        name: letters[slot][number]
        for name, (slot, number) in at.items()
        if len(letters.get(slot, ())) > number
    }


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
    spans = _spans_of(rows, fields["clean"])
    task = Task.from_tokens(**fields, metric=metric, name=name, seed=seed, template=clusters, spans=spans)
    require(task.problems(model))
    return task


def _spans_of(rows: Sequence[Row], clean: Tensor) -> dict[str, Tensor]:
    """Masks of the named positions of all rows, and of their ends."""
    names = dict.fromkeys(name for row in rows for name in row.spans)
    masks = {name: torch.zeros_like(clean, dtype=torch.bool) for name in [*names, "end"]}
    for i, row in enumerate(rows):
        for name, columns in {**row.spans, "end": [len(row.clean) - 1]}.items():
            masks[name][i, columns] = True
    return masks


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
