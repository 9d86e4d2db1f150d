"""Agreement: the answers are all verbs in the subject's number, and the subject alone decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from word_models import build_words, bundled_words

from interp.tasks import Task, agreement, wordlists

LISTS = wordlists.load("agreement")
NOUNS = [*LISTS["subjects"], *LISTS["attractors"]]
NUMBER = {form: k for noun in NOUNS for k, form in enumerate(noun)}
VERBS = [{"is", "was", "has"}, {"are", "were", "have"}]


@pytest.fixture(params=["words", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def words_of(model: Any, tokens: Any) -> list[str]:
    return [model.tokenizer.decode([token]).strip() for token in tokens.tolist() if token >= 0]


def nouns(model: Any, task: Task, i: int, side: str = "clean") -> list[str]:
    """The nouns of a prompt in order: the subject, then the attractors."""
    words = words_of(model, getattr(task, side)[i, : int(task.lengths[i])])
    return [word for word in words if word in NUMBER]


def test_verbs_agree_with_the_subject_and_wrong_ones_do_not(model: Any) -> None:
    task = agreement(model, n=56, seed=0)
    counts = Counter()
    for i in range(56):
        subject, *others = nouns(model, task, i)
        number = NUMBER[subject]
        assert set(words_of(model, task.answers[i])) == VERBS[number]
        assert set(words_of(model, task.wrongs[i])) == VERBS[1 - number]
        assert sum(not {subject, *others}.isdisjoint(noun) for noun in NOUNS) == 1 + len(others)
        counts.update((number, NUMBER[other]) for other in others)
    assert counts[0, 0] == counts[1, 0]  # by mirroring: attractors tell nothing of the subject
    assert counts[0, 1] == counts[1, 1]
    assert min(counts.values()) > 5


@pytest.mark.parametrize("attractors", ["any", "opposite", "same"])
def test_the_corrupt_prompt_changes_the_subject_alone(attractors: str, model: Any) -> None:
    task = agreement(model, n=24, seed=1, attractors=attractors)
    assert (task.clean != task.corrupt).sum(-1).tolist() == [1] * 24
    for i in range(24):
        clean, corrupt = nouns(model, task, i), nouns(model, task, i, "corrupt")
        assert [clean[0], corrupt[0]] in [noun[::step] for noun in LISTS["subjects"] for step in (1, -1)]
        assert clean[1:] == corrupt[1:]


@pytest.mark.parametrize(("attractors", "differ"), [("opposite", True), ("same", False)])
def test_attractors_of_one_kind(attractors: str, differ: bool, model: Any) -> None:
    """All attractors differ from the clean subject, or all agree; a pair has both numbers of its nouns."""
    task = agreement(model, n=24, seed=0, attractors=attractors)
    for i in range(24):
        subject, *others = nouns(model, task, i)
        assert others
        assert {NUMBER[other] != NUMBER[subject] for other in others} == {differ}
        assert NUMBER[subject] == i % 2
        assert (task.answer[i] == task.wrong[i ^ 1]).all()
    assert len({tuple(row) for row in task.clean.tolist()}) == 24


def test_attractors_of_a_kind_that_is_not(words: Any) -> None:
    with pytest.raises(ValueError, match="attractors is 'plural'; it must be one of any, opposite, same"):
        agreement(words, n=4, attractors="plural")
    with pytest.raises(ValueError, match=r"template 0 is not usable .*; these are: 1, 2, 3, 4, 5, 6"):
        agreement(words, n=4, attractors="same", template=0)


def test_nouns_and_verbs_with_one_number_missing_are_dropped(tmp_path: Path) -> None:
    lacking = {"kings", "were", *(noun[0] for noun in LISTS["attractors"])}
    small = build_words([word for word in bundled_words() if word not in lacking], tmp_path)
    task = agreement(small, n=40, seed=0)
    assert set(words_of(small, task.answers.flatten())) == {"is", "are", "has", "have"}
    used = {word for i in range(40) for word in nouns(small, task, i)}
    assert not used & {"king", "kings", *(form for noun in LISTS["attractors"] for form in noun)}


def test_a_template_that_is_used_up_leaves_the_turn(words: Any) -> None:
    """`The {S}` has one pair for each of 16 subjects; the other templates give the rest."""
    task = agreement(words, n=280, seed=0)
    counts = Counter(task.template)
    assert counts["agreement 0"] == 32
    assert min(counts.values()) == 32
    assert sum(counts.values()) == 280
    assert len({tuple(row) for row in task.clean.tolist()}) == 280
