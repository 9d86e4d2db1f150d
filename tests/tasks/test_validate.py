"""Every mistake that can be seen without a model has its own message."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from interp.tasks import Loss, Task
from interp.tasks import _validate as validate


def make(**changes: Any) -> Task:
    fields = {
        "clean": [[1, 2, 3], [4, 5, 6]],
        "corrupt": [[1, 7, 3], [4, 8, 6]],
        "answer": [1, 2],
        "wrong": [3, 4],
        **changes,
    }
    return Task.from_tokens(**fields)


def test_no_prompts() -> None:
    for rows in ([], torch.ones(0, 3).long()):
        with pytest.raises(ValueError, match="clean has 0 prompts; a task needs at least one"):
            make(clean=rows, corrupt=rows, answer=[], wrong=[])


def test_one_tensor_for_both_is_a_mistake() -> None:
    rows = torch.tensor([[1, 2, 3], [4, 5, 6]])
    task = make(clean=rows, corrupt=rows)
    assert task.has_corrupt
    assert [text.split(";")[0] for text in task.same_pairs()] == [
        f"prompt {i}: clean and corrupt are the same 3 tokens" for i in (0, 1)
    ]


def test_a_good_task_has_no_problems() -> None:
    assert make().problems() == []


CASES = {
    "unequal pair": (
        {"clean": [[1, 2, 3], [4, 5, 6]], "corrupt": [[1, 7, 3], [4, 8]]},
        "prompt 1: clean has 3 tokens, corrupt has 2. Patching compares positions; "
        "use prompts of equal token length.",
    ),
    "unequal tensors": (
        {"clean": torch.ones(2, 3, dtype=torch.long), "corrupt": torch.ones(2, 4, dtype=torch.long)},
        "prompt 0: clean has 3 tokens, corrupt has 4.",
    ),
    "several unequal pairs": (
        {"clean": [[1], [4]], "corrupt": [[1, 7], [4, 8, 9]]},
        "2 pairs differ in length: prompts 0 (1 and 2), 1 (1 and 3).",
    ),
    "missing prompt": ({"corrupt": [[1, 7, 3]]}, "clean has 2 prompts, corrupt has 1."),
    "difference in padding": (
        {
            "clean": torch.tensor([[1, 2, 0], [3, 4, 0]]),
            "corrupt": torch.tensor([[1, 5, 0], [9, 4, 8]]),
            "lengths": [2, 2],
        },
        "prompt 1: clean and corrupt differ in the padding, after its 2 tokens.",
    ),
    "shared answer": (
        {"answer": [[1, 2], [5, 2]], "wrong": [[3, -1], [4, 2]]},
        "prompt 1: token 2 is both an answer and a wrong answer",
    ),
    "no answer": ({"answer": [[1], []]}, "prompt 1: answer is empty; give at least one token."),
    "negative answer": (
        {"wrong": [3, -2]},
        "prompt 1: wrong has the token id -2; ids are 0 or more, and -1 is padding.",
    ),
    "negative token": (
        {"clean": [[1, 2, -3], [4, 5, 6]]},
        "prompt 0: clean has the token id -3; ids are 0 or more.",
    ),
    "position after": (
        {"positions": [2, 3]},
        "prompt 1: the metric's position is 3, but the prompt has 3 tokens; positions count from 0 to 2.",
    ),
    "position before": (
        {"positions": [-1, 2]},
        "prompt 0: the metric's position is -1, but the prompt has 3 tokens",
    ),
    "long": ({"lengths": [3, 4]}, "prompt 1: its length is 4; it must be from 1 to 3 (the positions)."),
    "short for the loss": (
        {"clean": [[1]], "corrupt": [[2]], "answer": [1], "wrong": [2], "metric": Loss()},
        "prompt 0: its length is 1; it must be from 2 to 1 (the positions); a metric that reads all",
    ),
    "floats": (
        {"clean": torch.ones(2, 3)},
        "clean has dtype torch.float32, but token ids and positions are integers: use .long().",
    ),
    "flags": ({"answer": torch.tensor([True, False])}, "answer has dtype torch.bool"),
    "one row": (
        {"clean": torch.tensor([1, 2]), "corrupt": None},
        "clean has shape (2,); it must be (prompt, pos).",
    ),
    "a list of numbers": (
        {"clean": [1, 2]},
        "clean is a list of numbers; give a list of lists, one per prompt.",
    ),
    "nothing": (
        {"clean": torch.ones(2, 0).long(), "corrupt": None},
        "clean has shape (2, 0); a task needs a prompt",
    ),
    "answers of another count": (
        {"answer": [1, 2, 3]},
        "answer has shape (3,); for 2 prompts it must be (2,) or (2, k).",
    ),
    "positions of another count": (
        {"positions": [1]},
        "positions has shape (1,); for 2 prompts it must be (2,).",
    ),
    "clusters": ({"template": ["a"]}, "template has 1 entries, but there are 2 prompts."),
    "labels": ({"labels": [["a", "b", "c"]]}, "labels must be 2 rows of 3 strings"),
    "devices": (
        {"positions": torch.zeros(2, dtype=torch.long, device="meta")},
        "the tensors of a task must be on one device, but clean on cpu, corrupt on cpu, positions on meta",
    ),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_mistake(case: str) -> None:
    changes, message = CASES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**changes)


def test_what_the_constructor_asks_of_tensors() -> None:
    good = make()
    tensors = {name: getattr(good, name) for name in validate.TENSORS}
    validate.require_tensors(tensors)
    with pytest.raises(ValueError, match=r"clean has shape \(2, 3\), corrupt has \(2, 2\)"):
        validate.require_tensors({**tensors, "corrupt": good.corrupt[:, :2]})
    with pytest.raises(ValueError, match="clean is a list, not a tensor"):
        validate.require_tensors({**tensors, "clean": [[1]]})


def test_all_mistakes_are_listed_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"(?s)prompt 0: the metric's position is 9.*3 problems in all.*prompt 1: token 4"
    ):
        make(positions=[9, 9], answer=[1, 4])


def test_a_long_list_of_mistakes_is_cut() -> None:
    rows = [[1, 2]] * 40
    with pytest.raises(ValueError, match="40 problems in all") as caught:
        make(clean=rows, corrupt=[[2, 2]] * 40, answer=[5] * 40, wrong=[5] * 40)
    assert len(str(caught.value).splitlines()) < 25
