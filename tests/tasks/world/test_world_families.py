"""The world's task families: mirrored pairs for any tokenizer that has the words, else clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from word_models import build_words

from interp import tasks
from interp.tasks import Task
from interp.tasks.world import SPECIAL, vocabulary

FAMILIES = [
    tasks.sentiment,
    tasks.pronouns,
    tasks.languages,
    tasks.register,
    tasks.requests,
    tasks.conflict,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    words = [word for word in vocabulary() if word not in SPECIAL]
    return build_words(words, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("family", FAMILIES)
def test_mirrored_pairs(world: Any, family: Callable[..., Task]) -> None:
    task = family(world, n=40, seed=2)
    assert len(task) == 40
    assert task.problems(world) == []
    for i in range(40):
        assert task.corrupt[i].tolist() == task.clean[i ^ 1].tolist()
        assert task.wrongs[i].tolist() == task.answers[i ^ 1].tolist()
    assert len({tuple(row) for row in task.clean.tolist()}) > 30
    assert family(world, n=40, seed=2).fingerprint() == task.fingerprint()
    assert family(world, n=40, seed=3).fingerprint() != task.fingerprint()
    assert family(world, n=40, seed=2, held_out=False).fingerprint() != task.fingerprint()


@pytest.mark.parametrize("kind", ["refusal", "frame", "harm"])
def test_requests_ask_for_one_of_three_things(world: Any, kind: str) -> None:
    task = tasks.requests(world, n=20, kind=kind)
    answers = {world.tokenizer.decode([token]) for token in task.answer.flatten().tolist()}
    assert answers == ({"harmful", "harmless"} if kind == "harm" else {"sorry", "sure"})


def test_gpt2_says_what_it_can(gpt2: Any) -> None:
    task = tasks.pronouns(gpt2, n=40)
    assert task.problems(gpt2) == []
    answers = {gpt2.tokenizer.decode([token]) for token in task.answer.flatten().tolist()}
    assert {" she", " he", " they"} <= answers


def test_wrong_requests(world: Any, words: Any) -> None:
    with pytest.raises(ValueError, match="kind is 'polite'; use one of refusal, frame, harm"):
        tasks.requests(world, kind="polite")
    with pytest.raises(ValueError, match="n is 7"):
        tasks.sentiment(world, n=7)
    with pytest.raises(ValueError, match=r"sentiment: .* draws gave 0 of 64 prompts .* lacks 'Review'"):
        tasks.sentiment(words)
