"""Rows of MIB: known by their columns, paired as the benchmark pairs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.tasks import vocabulary

CLEAN = "When Mary and John went to the store, John gave a book to"
FLIP = "When Mary and John went to the store, Mary gave a book to"
ABC = "When Anna and Tom went to the store, Lucy gave a book to"


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


def ioi_row(**more: Any) -> dict[str, Any]:
    return {
        "prompt": CLEAN,
        "template": "{A} and {B}",
        "choices": ["Mary", "John"],
        "answerKey": 0,
        "metadata": {"indirect_object": "Mary", "subject": "John"},
        "s2_io_flip_counterfactual": {"prompt": FLIP, "choices": ["Mary", "John"], "answerKey": 1},
        "abc_counterfactual": {"prompt": ABC, "choices": ["Anna", "Tom"], "answerKey": 1},
        **more,
    }


def test_ioi_has_the_names_of_its_metadata(model, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(ioi_row()) for _ in range(3)))
    task = interp.tasks.mib(model, path, n=2)
    assert (task.name, len(task)) == ("mib ioi", 2)
    by_hand = interp.Task.from_prompts(
        model, clean=[CLEAN] * 2, corrupt=[FLIP] * 2, answer=[" Mary"] * 2, wrong=[" John"] * 2
    )
    assert task.fingerprint() == by_hand.fingerprint()
    assert task.template == ("{A} and {B}",) * 2
    other = interp.tasks.mib(model, [ioi_row()], counterfactual="abc")
    assert torch.equal(other.corrupt[0], torch.tensor(vocabulary.encode(model, ABC)))


def test_choices_answer_with_the_label_of_the_key(model) -> None:
    other = {"prompt": FLIP, "choices": {"label": ["Tom", "Lucy"], "text": ["x", "y"]}, "answerKey": 1}
    row = {
        "prompt": CLEAN, "choices": {"label": ["Mary", "John"], "text": ["x", "y"]}, "answerKey": 0,
        "symbol_counterfactual": other,
    }  # fmt: skip
    task = interp.tasks.mib(model, [row], lead=" ")
    assert task.name == "mib mcqa"
    ids = [vocabulary.continuation(model, word) for word in (" Mary", " Lucy")]
    assert [int(task.targets.ravel()[0]), int(task.wrong_targets.ravel()[0])] == ids


def test_arithmetic_answers_with_the_result(model) -> None:
    row = {
        "prompt": CLEAN, "label": "Mary", "operand1": 1, "operand2": 2, "operator": "+",
        "random_counterfactual": {"prompt": FLIP, "label": "John", "operand1": 2, "operand2": 3},
    }  # fmt: skip
    task = interp.tasks.mib(model, [row], lead=" ")
    assert task.name == "mib arithmetic"
    assert int(task.targets.ravel()[0]) == vocabulary.continuation(model, " Mary")


def test_rows_that_do_not_fit_are_left_out_with_a_count(model) -> None:
    longer = ioi_row(s2_io_flip_counterfactual={"prompt": FLIP + " the"})
    with pytest.warns(UserWarning, match="1 of 2 rows do not fit"):
        assert len(interp.tasks.mib(model, [longer, ioi_row()])) == 1
    with pytest.raises(ValueError, match="0 of 1 rows fit"):
        interp.tasks.mib(model, [longer])
    with pytest.raises(ValueError, match=r"1 of 2 rows fit .* and n is 2"):
        interp.tasks.mib(model, [longer, ioi_row()], n=2)


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([], {}, "there are no rows"),
        ([{"text": "x"}], {}, "a row has text; rows of MIB have"),
        ([3], {}, "a row has int"),
        ([ioi_row()], {"counterfactual": "s1"}, "They have: s2_io_flip_counterfactual, abc_counterfactual"),
        ([ioi_row(), ioi_row(metadata={})], {}, "row 1 lacks 'indirect_object'"),
        ("rows.csv", {}, r"is no \.jsonl file"),
    ],
)
def test_what_is_no_row_is_named(model, rows: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        interp.tasks.mib(model, rows, **more)


def test_a_list_of_rows_is_a_table(model) -> None:
    rows = [{"clean": CLEAN, "corrupt": FLIP, "answer": " Mary", "wrong": " John"}]
    datasets = pytest.importorskip("datasets")
    tasks = [interp.Task.from_frame(model, each) for each in (rows, datasets.Dataset.from_list(rows))]
    assert tasks[0].fingerprint() == tasks[1].fingerprint()
    with pytest.raises(ValueError, match="frame is a list"):
        interp.Task.from_frame(model, [1, 2])
