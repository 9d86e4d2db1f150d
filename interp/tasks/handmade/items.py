"""Prompts that can all be listed: drawn in pairs, or every one of them once.

Two prompts make a pair when they have as many tokens and different answers; the wrong answer of each is the
answer of the other.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from interp.tasks import prompts, rows, vocabulary, wordlists
from interp.tasks.metrics import Metric
from interp.tasks.shifts import shift_warnings
from interp.tasks.task import Task


class Item(NamedTuple):
    """A prompt in words, and the word that answers it."""

    text: str
    answer: str


Pair = tuple[Item, Item]  # clean, corrupt


def mirrored(items: Sequence[Item], n: int, seed: int) -> list[Pair]:
    """n pairs of different prompts: the corrupt prompt of pair 2i is the clean prompt of pair 2i + 1."""
    wordlists.require_even(n)
    left = list(items)
    random.Random(seed).shuffle(left)
    pairs: list[Pair] = []
    while len(pairs) < n:
        first = left.pop() if left else None
        partner = next((i for i, item in enumerate(left) if first and _fit(first, item)), None)
        if first is None or partner is None:
            raise ValueError(f"n is {n}, but {len(items)} prompts do not make so many pairs; use fewer.")
        second = left.pop(partner)
        pairs += [(first, second), (second, first)]
    return pairs


def every(items: Sequence[Item], seed: int) -> list[Pair]:
    """Every prompt once, in order, each with a corrupt prompt drawn by the seed."""
    rng = random.Random(seed)
    groups: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[len(item.text.split())].append(item)
    return [(item, _other(item, groups[len(item.text.split())], rng)) for item in items]


def drawn(pairs: Sequence[Pair], n: int, seed: int) -> list[Pair]:
    """n of the pairs."""
    if not 1 <= n <= len(pairs):
        raise ValueError(f"n is {n}; there are {len(pairs)} pairs of prompts, so it must be from 1 to that.")
    return random.Random(seed).sample(list(pairs), n)


def build(
    model: Any,
    name: str,
    pairs: Sequence[Pair],
    seed: int,
    metric: Metric | None,
    clusters: Sequence[str] | None = None,
) -> Task:
    """The task of these pairs; by default each is a cluster of its own."""
    listed = list(dict.fromkeys(item for pair in pairs for item in pair))
    words = dict.fromkeys(word for item in listed for word in (*item.text.split(), item.answer))
    prompts.require_single(model, "words", list(words))
    ids = wordlists.single_tokens(model, words)
    sides = {item: rows.Side(vocabulary.encode(model, item.text), [ids[item.answer]]) for item in listed}
    clusters = clusters or [f"{name} {i}" for i in range(len(pairs))]
    made = [rows.contrast(sides[one], sides[other], c) for (one, other), c in zip(pairs, clusters)]
    return rows.make(model, made, name=name, seed=seed, metric=metric)


def of(model: Any, name: str, items: Sequence[Item], n: int | None, seed: int, metric: Metric | None) -> Task:
    """n mirrored pairs, the cluster of a prompt being its pair; every item once when n is None."""
    if n is None:
        return build(model, name, every(items, seed), seed, metric)
    clusters = [f"{name} {i // 2}" for i in range(n)]
    return build(model, name, mirrored(items, n, seed), seed, metric, clusters)


def _fit(one: Item, other: Item) -> bool:
    """A pair of as many tokens and different answers, in which no run of words stands elsewhere."""
    a, b = one.text.split(), other.text.split()
    if one.answer == other.answer or len(a) != len(b):
        return False
    ids = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
    rows = [torch.tensor([[ids[word] for word in words]]) for words in (a, b)]
    return not shift_warnings(*rows)


def _other(item: Item, group: list[Item], rng: random.Random) -> Item:
    while (found := rng.choice(group)).answer == item.answer:
        pass
    return found
