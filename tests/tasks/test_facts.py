"""Facts: the answer is the subject's, the wrong answer that of the corrupt prompt's subject."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from word_models import build_words, bundled_words

from interp.tasks import _facts as facts_family
from interp.tasks import facts, wordlists
from interp.tasks._facts import Relation

CAPITALS = dict(wordlists.load("capitals")["capitals"])


@pytest.fixture(params=["words", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def countries(model: Any, tokens: Any) -> list[str]:
    words = [model.tokenizer.decode([token]).strip() for token in tokens.tolist()]
    return [word for word in words if word in CAPITALS]


def test_answers_are_the_capitals(model: Any) -> None:
    task = facts(model, n=40, seed=0)
    for i in range(40):
        (asked,), (other,) = countries(model, task.clean[i]), countries(model, task.corrupt[i])
        given = [model.tokenizer.decode([int(token)]).strip() for token in (task.answer[i], task.wrong[i])]
        assert given == [CAPITALS[asked], CAPITALS[other]]
    assert (task.clean != task.corrupt).sum(-1).tolist() == [1] * 40
    assert task.name == "facts capital"


def test_every_country_before_any_again(words: Any) -> None:
    """Of 30 countries 15 pairs ask about each once; 45 pairs ask about all almost equally often."""
    once = facts(words, n=30, seed=0, template=0)
    assert len({tuple(row) for row in once.clean.tolist()}) == 30
    twice = facts(words, n=90, seed=0, template=0)
    asked = Counter(countries(words, row)[0] for row in twice.clean)
    assert len(asked) == 30
    assert max(asked.values()) - min(asked.values()) <= 2
    pairs = {(tuple(a), tuple(b)) for a, b in zip(twice.clean.tolist(), twice.corrupt.tolist())}
    assert len(pairs) == 90


def test_all_pairs_there_are_and_no_more(tmp_path: Path) -> None:
    known = [
        word for country in ("France", "Italy", "Spain", "Japan") for word in (country, CAPITALS[country])
    ]
    small = build_words(["The", "capital", "of", "is", *known], tmp_path)
    task = facts(small, n=12, seed=0)
    assert len({(tuple(a), tuple(b)) for a, b in zip(task.clean.tolist(), task.corrupt.tolist())}) == 12
    with pytest.raises(
        ValueError, match="n is 14, but the words that the tokenizer has give only 12 prompts"
    ):
        facts(small, n=14)


def test_a_country_without_its_capital_is_dropped(tmp_path: Path) -> None:
    small = build_words([word for word in bundled_words() if word != "Paris"], tmp_path)
    task = facts(small, n=60, seed=0)
    assert "France" not in {countries(small, row)[0] for row in task.clean}


def test_gpt2_begins_a_text_only_with_countries_of_one_token(gpt2: Any) -> None:
    """`{COUNTRY} has its capital in`: Norway is two tokens there, one after a space."""
    first = {countries(gpt2, row)[0] for row in facts(gpt2, n=16, seed=0, template=2).clean}
    assert "France" in first
    assert "Norway" not in first
    assert "Norway" in {countries(gpt2, row)[0] for row in facts(gpt2, n=28, seed=0, template=0).clean}


def test_subjects_with_one_answer_are_never_a_pair(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"Mary": "Paris", "John": "Paris", "Tom": "Rome"}
    relation = Relation("COUNTRY", "cities", lambda: (["The capital of {COUNTRY} is"], known))
    monkeypatch.setitem(facts_family.RELATIONS, "home", relation)
    task = facts(words, n=4, seed=0, relation="home")
    assert (task.answer != task.wrong).all()
    with pytest.raises(ValueError, match=r"n is 6, .* give only 4 prompts"):
        facts(words, n=6, seed=0, relation="home")


def test_an_unknown_relation(words: Any) -> None:
    with pytest.raises(
        ValueError, match=r"unknown relation 'capitol'; did you mean 'capital'\? Relations: capital"
    ):
        facts(words, n=4, relation="capitol")
