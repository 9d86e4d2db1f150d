"""Corrupt prompts for one's own: as many tokens, another text, and what cannot be is a sentence."""

from __future__ import annotations

import pytest

import interp
from interp.tasks import corrupt, vocabulary

TEXTS = [
    "When Mary and John went to the store, John gave a book to",
    "When Anna and Tom went to the park, Tom gave a bag to",
    "When Lucy and Kate went to the school, Kate gave a ball to",
]
NAMES = ["Mary", "John", "Anna", "Tom", "Kate", "Lucy"]


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


def lengths(model, texts: list[str]) -> list[int]:
    return [len(vocabulary.encode(model, text)) for text in texts]


def test_two_words_change_places_wherever_they_stand(model) -> None:
    assert corrupt.swap(model, TEXTS, ["Mary", "Anna", "Lucy"], ["John", "Tom", "Kate"]) == [
        "When John and Mary went to the store, Mary gave a book to",
        "When Tom and Anna went to the park, Anna gave a bag to",
        "When Kate and Lucy went to the school, Lucy gave a ball to",
    ]


def test_parts_of_words_stay(model) -> None:
    assert corrupt.swap(model, ["a bag at the park"], "a", "the") == ["the bag at a park"]


def test_a_word_gives_way_to_another_of_its_class(model) -> None:
    others = corrupt.replace(model, TEXTS, ["Mary", "Anna", "Lucy"], NAMES, seed=1)
    for text, other, gone in zip(TEXTS, others, ["Mary", "Anna", "Lucy"]):
        changed = [(a, b) for a, b in zip(text.split(), other.split()) if a != b]
        assert [a for a, _ in changed] == [gone]
        assert changed[0][1] in NAMES
        assert changed[0][1] not in text
    assert lengths(model, others) == lengths(model, TEXTS)
    assert corrupt.replace(model, TEXTS, ["Mary", "Anna", "Lucy"], NAMES, seed=1) == others


def test_a_word_gives_way_to_its_opposite_both_ways_round(model) -> None:
    world = interp.load("tiny-world")
    pairs = {"good": "bad"}
    texts = ["the park is good", "the park is bad"]
    assert corrupt.negate(world, texts, pairs) == texts[::-1]


def test_words_are_shuffled_and_some_stay(model) -> None:
    shuffled = corrupt.shuffle(model, TEXTS, keep=["When", "to"], seed=2)
    for text, other in zip(TEXTS, shuffled):
        assert other != text
        assert sorted(other.split()) == sorted(text.split())
        kept = [i for i, word in enumerate(text.split()) if word in ("When", "to")]
        assert [other.split()[i] for i in kept] == [text.split()[i] for i in kept]
    assert lengths(model, shuffled) == lengths(model, TEXTS)


def test_another_prompt_of_the_set_with_another_answer(model) -> None:
    answers = [" Mary", " Anna", " Mary"]
    drawn = corrupt.resample(model, TEXTS, answers=answers)
    assert [TEXTS.index(text) for text in (drawn[0], drawn[2])] == [1, 1]
    assert drawn[1] in (TEXTS[0], TEXTS[2])


def test_they_make_a_task(model) -> None:
    task = interp.Task.from_prompts(
        model,
        clean=TEXTS,
        corrupt=corrupt.swap(model, TEXTS, ["Mary", "Anna", "Lucy"], ["John", "Tom", "Kate"]),
        answer=[" Mary", " Anna", " Lucy"],
        wrong=[" John", " Tom", " Kate"],
    )
    assert task.has_corrupt
    assert not task.problems(model)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: corrupt.swap(m, TEXTS[:1], "Mary", "Peter"), "prompt 0: the word 'Peter' is not in"),
        (lambda m: corrupt.swap(m, TEXTS, ["Mary"], "John"), "first has 1 words for 3 texts"),
        (lambda m: corrupt.swap(m, TEXTS[:1], "", "John"), "the word '' is not in"),
        (lambda m: corrupt.swap(m, TEXTS[:1], "Mary", "Mary"), "nothing changed"),
        (lambda m: corrupt.replace(m, TEXTS[:1], "Mary", ["John"]), "none of the 1 others for 'Mary'"),
        (lambda m: corrupt.negate(m, TEXTS[:1], {"never": "always"}), "has none"),
        (lambda m: corrupt.shuffle(m, ["Mary"]), "no other order"),
        (lambda m: corrupt.resample(m, TEXTS[:1]), "no other text of the set"),
        (lambda m: corrupt.resample(m, TEXTS, answers=[1]), "answers has 1 entries"),
        (lambda m: corrupt.checked(m, ["Mary"], ["Mary and"]), "tokens"),
        (lambda m: corrupt.checked(m, ["Mary"], ["Zoltan"]), "Zoltan in 'Zoltan' is not in the vocabulary"),
    ],
)
def test_what_cannot_be_is_a_sentence(model, call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(model)
