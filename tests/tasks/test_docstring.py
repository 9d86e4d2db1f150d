"""Docstring: the answer is the argument that follows the second in the definition."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from word_models import build_words, bundled_words

from interp.tasks import Task, docstring, wordlists

LISTS = wordlists.load("docstring")
ARGUMENTS, FILLERS = set(LISTS["arguments"]), set(LISTS["fillers"])


@pytest.fixture(params=["words", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def said(model: Any, task: Task, i: int, side: str) -> list[str]:
    """The words of a prompt, punctuation left out."""
    row = getattr(task, side)[i, : int(task.lengths[i])]
    return re.findall(r"\w+", " ".join(model.tokenizer.decode([token]) for token in row.tolist()))


def test_answer_is_the_third_argument_and_wrong_the_fourth(model: Any) -> None:
    task = docstring(model, n=24, seed=0)
    for i in range(24):
        words = said(model, task, i, "clean")
        first, second, third, fourth, *documented = (word for word in words if word in ARGUMENTS)
        assert len({first, second, third, fourth}) == 4
        assert documented == [first, second]
        assert words[-1] == "param"
        given = [model.tokenizer.decode([int(token)]).strip() for token in (task.answer[i], task.wrong[i])]
        assert given == [third, fourth]


def test_the_corrupt_prompt_exchanges_both_in_the_definition_only(model: Any) -> None:
    task = docstring(model, n=24, seed=1)
    assert (task.clean != task.corrupt).sum(-1).tolist() == [2] * 24
    for i in range(24):
        clean, corrupt = said(model, task, i, "clean"), said(model, task, i, "corrupt")
        third, fourth = [word for word in clean if word in ARGUMENTS][2:4]
        at = clean.index(third)
        assert corrupt == [*clean[:at], fourth, third, *clean[at + 2 :]]
        assert at < clean.index("param")


def test_fillers_are_distinct_and_no_arguments(model: Any) -> None:
    task = docstring(model, n=24, seed=0)
    for i in range(24):
        fillers = [word for word in said(model, task, i, "clean") if word in FILLERS]
        assert len(set(fillers)) == len(fillers) == 7
    assert not ARGUMENTS & FILLERS


def test_prompts_line_up(model: Any) -> None:
    """There is one template: every word stands at the same position in all prompts."""
    task = docstring(model, n=40, seed=0)
    assert task.lengths.tolist() == [task.clean.shape[1]] * 40
    assert len(set(task.first_difference.tolist())) == 1
    assert len(set(task.template)) == 20


def test_too_few_arguments_or_fillers(tmp_path: Path) -> None:
    for kind, words, left in (("argument names", ARGUMENTS, "load"), ("filler words", FILLERS, "oil")):
        known = [word for word in bundled_words() if word not in words - {left}]
        with pytest.raises(ValueError, match=f"has 1 of {len(words)} {kind} as single tokens"):
            docstring(build_words(known, tmp_path / left), n=4)
