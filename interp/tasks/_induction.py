"""Induction (Elhage et al. 2021; Olsson et al. 2022, arXiv:2209.11895): continue a sequence seen before.

Random distinct words, then the same words again, cut after the first few: `w1 w2 ... w8 w1 w2 w3 w4` →
w5. Corrupt: the w5 of the first occurrence is replaced by another word x, which makes x the answer; so
the wrong answer is x. With `corrupt="all"` the corrupt prompt is another random sequence altogether: then
the heads that find the place differ between the two as well, not only what is copied from it.

Prompts 2i and 2i + 1 are mirrored: the corrupt prompt of one is the clean prompt of the other. A model
without a tokenizer gets random token ids. The cluster of a prompt is its pair.

Spans: `copy` the first time of the whole sequence, `answer` where the answer stands in it, `previous` the
token before it, which is that of `end`, the last token.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from interp._verbs import verb
from interp.tasks import _prompts, vocabulary, wordlists
from interp.tasks._pairs import Row, Side, make, mirrored
from interp.tasks._task import Task
from interp.tasks.metrics import Metric


@verb
def induction(
    model: Any,
    n: int = 64,
    seed: int = 0,
    *,
    length: int = 8,
    prefix: int | None = None,
    words: Sequence[str] | None = None,
    random_tokens: bool = False,
    corrupt: str = "answer",
    metric: Metric | str | None = None,
    prepend_bos: bool | None = None,
) -> Task:
    """Copy from before: `length` words, then the first `prefix` of them (default half) again.

    words: draw from these; each must be one token.
    corrupt: what the corrupt prompt changes: the "answer", or "all" words.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> len(interp.tasks.induction(model, n=4))
        4
    """
    wordlists.require_even(n)
    prefix = length // 2 if prefix is None else prefix
    if not 1 <= prefix < length:
        raise ValueError(
            f"prefix is {prefix}; it must be from 1 to {length - 1}, one less than length ({length})."
        )
    if corrupt not in _PAIRS:
        raise ValueError(f"corrupt is {corrupt!r}; it must be one of {', '.join(map(repr, _PAIRS))}.")
    ids, start = _vocabulary(model, words, random_tokens, length, prepend_bos)
    rng = random.Random(seed)

    made: list[Row] = []
    for pair in range(n // 2):
        sequences = _PAIRS[corrupt](ids, length, prefix, rng)
        at = len(start) + prefix
        spans = {"previous": [at - 1], "answer": [at], "copy": list(range(len(start), len(start) + length))}
        one, other = (Side([*start, *row, *row[:prefix]], [row[prefix]], spans) for row in sequences)
        made += mirrored(one, other, f"induction {pair}")
    return make(model, made, name="induction", seed=seed, metric=metric)


def _replaced(ids: list[int], length: int, prefix: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """A sequence, and the same with another word in the place of the answer."""
    *sequence, other = rng.sample(ids, length + 1)
    return sequence, [*sequence[:prefix], other, *sequence[prefix + 1 :]]


def _unrelated(ids: list[int], length: int, prefix: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """Two sequences that differ in every place."""
    sequence = other = rng.sample(ids, length)
    while any(a == b for a, b in zip(sequence, other)):
        other = rng.sample(ids, length)
    return sequence, other


_PAIRS = {"answer": _replaced, "all": _unrelated}


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
            pool = _bundled_words() if words is None else [word.strip() for word in words]
            if words is not None:
                _prompts.require_single(model, "words", pool)
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
