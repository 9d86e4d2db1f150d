"""Every check: solutions pass, each usual mistake gets its own message, nothing passes that does not
compute.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from solved import EXERCISES, function

from interp.labs import NotYet, Wrong, check, labs

each = pytest.mark.parametrize(("number", "name"), EXERCISES, ids=[name for _, name in EXERCISES])


@each
def test_the_solution_passes_and_leaves_no_trace(number: str, name: str) -> None:
    state = torch.random.get_rng_state()
    line = getattr(check, name).judge(function(number, name, "solution"))
    assert line.startswith(f"✓ {name}: ")
    assert any(digit.isdigit() for digit in line)
    assert torch.equal(torch.random.get_rng_state(), state)


@each
def test_every_mistake_has_its_own_message(number: str, name: str) -> None:
    exercise = getattr(check, name)
    messages = [mistake.message for mistake in exercise.mistakes]
    assert len(set(messages)) == len(messages) >= 2
    for mistake in exercise.mistakes:
        with pytest.raises(Wrong) as caught:
            exercise.judge(students(mistake.run))
        assert f"Likely cause: {mistake.message}." in str(caught.value), str(caught.value)
        assert any(word in str(caught.value) for word in ("yours ", "the shape is", "stopped with"))


def students(run: Any) -> Any:
    """A mistake as a function of a student's: it may call the lab's own, of which it is made."""
    from interp.labs import _exercise

    def fn(*args: Any) -> Any:
        token = _exercise._RUNNING.set("")
        try:
            return run(*args)
        finally:
            _exercise._RUNNING.reset(token)

    return fn


@each
def test_a_stub_fails_with_its_hint(number: str, name: str) -> None:
    stub = function(number, name, "exercise")
    with pytest.raises(NotYet, match=r"not written yet\. Hint: ") as caught:
        getattr(check, name).judge(stub)
    assert len(str(caught.value)) > 50
    assert len(inspect.signature(stub).parameters) == len(
        inspect.signature(function(number, name, "solution")).parameters
    )


@each
def test_constants_and_the_labs_own_function_do_not_pass(number: str, name: str) -> None:
    exercise = getattr(check, name)
    first = exercise.cases()[0]
    right = exercise.reference(*first.args())  # the right answer of the case by hand, whatever is asked
    with pytest.raises(Wrong):
        exercise.judge(lambda *args: right)
    with pytest.raises(Wrong, match="lab's own function"):
        exercise.judge(exercise.reference)
    with pytest.raises(Wrong, match="calls the lab's own"):
        exercise.judge(lambda *args: exercise.reference(*args))


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"has an exercise 'logit_dif'\. Did you mean 'logit_diff'"):
        check.logit_dif  # noqa: B018
    assert set(dir(check)) == {name for _, name in EXERCISES}


def test_what_was_changed_in_place_is_said() -> None:
    def careless(value: Any, clean: Any, pos: int) -> Any:
        clean[:, pos] = value[:, pos]
        return clean

    with pytest.raises(Wrong, match="changed the clean cache in place"):
        check.put_clean.judge(careless)


def test_an_error_of_the_students_is_said_with_its_case() -> None:
    with pytest.raises(Wrong, match=r"two prompts by hand: your function stopped with ZeroDivisionError"):
        check.logit_diff.judge(lambda *args: 1 / 0)
    with pytest.raises(Wrong, match="give the function itself"):
        check.logit_diff.judge(3)


def test_a_notebook_shows_the_text_alone() -> None:
    assert Wrong("text")._render_traceback_() == ["text"]


@pytest.mark.parametrize("number", labs())
def test_a_lab_is_as_the_teacher_expects(number: str) -> None:
    lab = labs()[number]
    assert lab.title.startswith(f"Lab {number} · ")
    assert lab.question.endswith("?")
    assert 3 <= len(lab.exercises) <= 5
    kinds = [cell.kind for cell in lab.cells]
    assert kinds.count("solution") == len(lab.exercises)
    asked = {cell.name for cell in lab.cells if cell.kind == "predict"}
    assert asked == set(lab.answers) >= {"bug", "finding"}
    assert len(asked) >= 4
    assert all(lab.answers.values())
    for cell in lab.cells:
        if cell.kind == "solution":
            lines = cell.text.split("):\n", 1)[1].splitlines()
            assert 1 <= len(lines) <= 15
