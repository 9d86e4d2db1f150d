"""Coloured objects: the answer is the colour said after the object asked for."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from word_models import build_words, bundled_words

from interp.tasks import Task, coloured_objects, wordlists

LISTS = wordlists.load("coloured_objects")
COLOURS, OBJECTS = set(LISTS["colours"]), set(LISTS["objects"])


@pytest.fixture(params=["words", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def said(model: Any, task: Task, i: int, side: str) -> list[str]:
    """The words of a prompt."""
    row = getattr(task, side)[i, : int(task.lengths[i])]
    return re.findall(r"\w+", " ".join(model.tokenizer.decode([token]) for token in row.tolist()))


def read(words: list[str]) -> tuple[list[str], list[str], str]:
    """Three colours, the objects before them, and the object asked for, said after them."""
    at = [i for i, word in enumerate(words) if word in COLOURS]
    asked = [word for word in words[at[2] + 1 :] if word in OBJECTS]
    assert len(asked) == 1
    return [words[i] for i in at], [words[i - 1] for i in at], asked[0]


def test_answer_and_wrong_answer_by_reading_the_prompt(model: Any) -> None:
    task = coloured_objects(model, n=36, seed=0)
    places = Counter()
    for i in range(36):
        colours, objects, asked = read(said(model, task, i, "clean"))
        assert (colours, objects) == read(said(model, task, i, "corrupt"))[:2]
        other = read(said(model, task, i, "corrupt"))[2]
        assert len(set(colours)) == len(set(objects)) == 3
        assert asked != other
        answers = (colours[objects.index(asked)], colours[objects.index(other)])
        given = (model.tokenizer.decode([int(token)]).strip() for token in (task.answer[i], task.wrong[i]))
        assert tuple(given) == answers
        places[objects.index(asked)] += 1
    assert places == {0: 12, 1: 12, 2: 12}


def test_clean_and_corrupt_differ_in_the_object_asked_for(model: Any) -> None:
    task = coloured_objects(model, n=24, seed=2)
    assert (task.clean != task.corrupt).sum(-1).tolist() == [1] * 24


def test_templates_whose_slots_have_no_words_are_left_out(tmp_path: Path) -> None:
    """Without places, the template that names one."""
    places = set(LISTS["places"])
    nowhere = build_words([word for word in bundled_words() if word not in places], tmp_path)
    task = coloured_objects(nowhere, n=8)
    assert set(task.template) == {"coloured_objects 0", "coloured_objects 2"}
    with pytest.raises(ValueError, match="template 1 is not usable with this tokenizer; these are: 0, 2"):
        coloured_objects(nowhere, n=8, template=1)


def test_too_few_colours(tmp_path: Path) -> None:
    missing = COLOURS - {"red", "blue"}
    small = build_words([word for word in bundled_words() if word not in missing], tmp_path)
    with pytest.raises(ValueError, match="has 2 of 12 colours as single tokens; 3 are needed"):
        coloured_objects(small, n=4)


def test_the_prompts_that_there_are(tmp_path: Path) -> None:
    """One template and name, three colours and objects: 36 scenes, each a mirrored pair."""
    known = re.findall(r"\S+", "Mary painted the book red , key blue and hat green . Yes")
    small = build_words(known, tmp_path)
    task = coloured_objects(small, n=72, seed=0)
    assert len({tuple(row) for row in task.clean.tolist()}) == 72
    with pytest.raises(ValueError, match=r"n is 74, but the words .* give only 72 prompts"):
        coloured_objects(small, n=74)
