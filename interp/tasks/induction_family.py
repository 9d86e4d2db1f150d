"""Induction (Elhage et al. 2021; Olsson et al. 2022, arXiv:2209.11895): continue a sequence seen before.

Random distinct words, then the same words again, cut after the first few: `w1 w2 ... w8 w1 w2 w3 w4` →
w5. Corrupt: the w5 of the first occurrence is replaced by another word x, which makes x the answer; so
the wrong answer is x.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. A model
without a tokenizer gets random token ids. The cluster of a prompt is its pair.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from interp.tasks import prompts, vocabulary, wordlists
from interp.tasks.metrics import Metric
from interp.tasks.task import Task
from interp.tasks.validate import require


def induction(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    length: int = 8,
    prefix: int | None = None,
    words: Sequence[str] | None = None,
    random_tokens: bool = False,
    metric: Metric | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Copy from before: `length` words, then the first `prefix` of them (default half) again."""
    wordlists.require_even(n)
    prefix = length // 2 if prefix is None else prefix
    if not 1 <= prefix < length:
        raise ValueError(
            f"prefix is {prefix}; it must be from 1 to {length - 1}, one less than length ({length})."
        )
    ids, start = _vocabulary(model, words, random_tokens, length, prepend_bos)
    rng = random.Random(seed)

    clean, answer, wrong = [], [], []
    for _ in range(n // 2):
        *sequence, other = rng.sample(ids, length + 1)
        swapped = [*sequence[:prefix], other, *sequence[prefix + 1 :]]
        for row in (sequence, swapped):
            clean.append([*start, *row, *sequence[:prefix]])
            answer.append([row[prefix]])
        wrong += answer[-1:] + answer[-2:-1]
    corrupt = [clean[i ^ 1] for i in range(n)]  # the other of the pair
    fields = prompts.from_ids(model, clean=clean, corrupt=corrupt, answer=answer, wrong=wrong)
    clusters = [f"induction {i // 2}" for i in range(n)]
    task = Task.from_tokens(**fields, metric=metric, name="induction", seed=seed, template=clusters)
    require(task.problems(model))
    return task


def _vocabulary(
    model: Any, words: Sequence[str] | None, random_tokens: bool, length: int, prepend_bos: bool | None
) -> tuple[list[int], list[int]]:
    """The ids to draw from, and what stands before the first of them (BOS or nothing)."""
    if not vocabulary.has_tokenizer(model):
        ids, start = list(range(vocabulary.size(model))), []
    else:
        start = _start(model, prepend_bos)
        special = set(vocabulary.tokenizer_of(model).all_special_ids)
        if random_tokens:
            ids = [token for token in range(vocabulary.size(model)) if token not in special]
        else:
            pool = list(words) if words is not None else _bundled_words()
            ids = list(dict.fromkeys(wordlists.require_words(model, "words", pool, length + 1).values()))
    if len(ids) < length + 1:
        raise ValueError(f"{len(ids)} distinct tokens, but {length + 1} are needed. Use a smaller length.")
    return ids, start


def _start(model: Any, prepend_bos: bool | None) -> list[int]:
    """[BOS] when the model begins its prompts with it, else []."""
    token = vocabulary.bos(model)
    first = vocabulary.encode(model, "a", prepend_bos)[:1]
    return first if token is not None and first == [token] else []


def _bundled_words() -> list[str]:
    words = wordlists.load("ioi")
    nouns = wordlists.load("greater_than")["nouns"]
    return list(dict.fromkeys([*words["names"], *words["places"], *words["objects"], *nouns]))
