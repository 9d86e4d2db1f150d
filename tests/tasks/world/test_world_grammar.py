"""The grammar of the world: words and marks, what is held out, and the vocabulary."""

from __future__ import annotations

import random

import pytest

from interp.tasks import wordlists
from interp.tasks.world import (
    HELD_OUT_ONE_IN,
    SHARES,
    SPECIAL,
    World,
    behaviours,
    fixed_words,
    held_out,
    split,
    split_marked,
    vocabulary,
)


def test_words_and_marks() -> None:
    text = "Mary gave it to ^Tom, did f(self)? ^No."
    words, marked = split_marked(text)
    assert (
        words
        == split(text)
        == ["Mary", "gave", "it", "to", "Tom", ",", "did", "f", "(", "self", ")?", "No", "."]
    )
    assert [word for word, mark in zip(words, marked) if mark] == ["Tom", "No"]


def test_fixed_words_leave_out_slots_and_explanations() -> None:
    content = {"about": "never", "templates": ["The {NOUN} was old."], "lists": [["a", "b"], "c"]}
    assert fixed_words(content) == ["The", "was", "old", ".", "a", "b", "c"]


def test_about_one_key_in_eight_is_held_out() -> None:
    found = sum(held_out(f"key {i}") for i in range(4000))
    assert found == pytest.approx(4000 / HELD_OUT_ONE_IN, rel=0.15)


def test_the_vocabulary() -> None:
    words = vocabulary()
    assert tuple(words[:4]) == SPECIAL
    assert len(set(words)) == len(words)
    assert 300 <= len(words) <= 800
    assert not [word for word in words if "{" in word or "^" in word]


def test_every_document_is_in_the_vocabulary_and_fits_the_context() -> None:
    words, world, rng, used = set(vocabulary()), World(), random.Random(0), set()
    for _ in range(6000):
        document, marked = split_marked(world.document(rng))
        assert set(document) <= words
        assert len(document) + 2 <= 64
        assert len(marked) == len(document)
        used |= set(document)
    assert len(used) > 0.97 * len(words - set(SPECIAL))


def test_texts_come_as_often_as_the_shares_say() -> None:
    world, rng = World(), random.Random(0)
    said = [world.document(rng) for _ in range(4000)]
    reviews = sum(text.startswith("Review") for text in said) / len(said)
    code = sum(text.startswith("def ") for text in said) / len(said)
    assert reviews == pytest.approx(SHARES["sentiment"] / sum(SHARES.values()), rel=0.3)
    assert code == pytest.approx(SHARES["docstring"] / sum(SHARES.values()), rel=0.3)


def test_behaviours_share_words() -> None:
    words = {
        name: {word for _ in range(200) for word in split(each.pair(random.Random(_), test=False).clean)}
        for name, each in behaviours().items()
    }
    assert "house" in words["agreement"] & words["requests"] & words["languages"]
    assert set(wordlists.load("world")["people"]["female"]) <= words["ioi"] & words["pronouns"]
