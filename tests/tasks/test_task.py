"""Task: padding, defaults, subsets, exchange, fingerprint."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from interp.tasks import KL, LogitDiff, Task

CLEAN, CORRUPT = [[1, 2, 3, 4], [5, 6], [7, 8, 9]], [[1, 2, 9, 4], [6, 6], [7, 8, 1]]


def ragged(**changes: Any) -> Task:
    fields = {"clean": CLEAN, "corrupt": CORRUPT, "answer": [1, 2, 3], "wrong": [4, 5, 6], **changes}
    return Task.from_tokens(**fields)


def test_rows_of_different_lengths_are_padded_on_the_right() -> None:
    task = ragged(pad=11)
    assert task.clean.tolist() == [[1, 2, 3, 4], [5, 6, 11, 11], [7, 8, 9, 11]]
    assert task.corrupt.tolist() == [[1, 2, 9, 4], [6, 6, 11, 11], [7, 8, 1, 11]]
    assert task.lengths.tolist() == [4, 2, 3]
    assert task.positions.tolist() == [3, 1, 2]


def test_first_difference() -> None:
    assert ragged().first_difference.tolist() == [2, 0, 2]
    alone = ragged(corrupt=None)
    assert alone.first_difference.tolist() == [4, 4, 4]


def test_defaults() -> None:
    task = ragged()
    assert task.metric == LogitDiff()
    assert (task.name, task.seed, task.labels) == ("custom", None, None)
    assert len(set(task.template)) == len(task) == 3
    assert "3 prompts of 4 tokens" in repr(task)


def test_answers_have_two_dimensions_and_padding() -> None:
    task = ragged(answer=[1, [2, 3], 4], wrong=[5, 6, 7])
    assert task.answers.tolist() == [[1, -1], [2, 3], [4, -1]]
    assert task.wrong.tolist() == [5, 6, 7]
    assert task.wrongs.tolist() == [[5], [6], [7]]


def test_tensors_and_lists_give_the_same_task() -> None:
    rows = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    a = Task.from_tokens(
        clean=rows, corrupt=rows + 1, answer=torch.tensor([1, 2]), wrong=torch.tensor([3, 4])
    )
    b = Task.from_tokens(clean=[[1, 2], [3, 4]], corrupt=[[2, 3], [4, 5]], answer=[1, 2], wrong=[3, 4])
    assert a.clean.dtype == torch.int64
    assert a.fingerprint() == b.fingerprint()


def test_frozen_and_apart_from_the_tensors_it_was_built_from() -> None:
    rows = torch.tensor([[1, 2]])
    task = Task.from_tokens(clean=rows, corrupt=rows + 1, answer=[1], wrong=[2])
    before = task.fingerprint()
    rows += 5
    assert task.fingerprint() == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        ragged().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([1, 1]), [1, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (-1, [2]),
    ],
)
def test_subset_keeps_every_field_in_the_order_asked_for(index: Any, rows: list[int]) -> None:
    labels = [["a", "b", "c", "d"], ["e", "f"], ["g", "h", "i"]]
    task = ragged(labels=labels, template=["x", "y", "z"], metric=KL(), name="n", seed=3)
    part = task[index]
    for name in ("clean", "corrupt", "answer", "wrong", "positions", "lengths"):
        assert torch.equal(getattr(part, name), getattr(task, name)[rows]), name
    assert part.labels == tuple(task.labels[i] for i in rows)
    assert part.template == tuple("xyz"[i] for i in rows)
    assert (part.metric, part.name, part.seed) == (KL(), "n", 3)


def test_subset_mistakes() -> None:
    with pytest.raises(IndexError):
        ragged()[3]
    with pytest.raises(ValueError, match="a task needs a prompt"):
        ragged()[[]]
    assert [len(part) for part in ragged()] == [1, 1, 1]


def test_subset_of_a_task_without_corrupt_prompts_has_none_either() -> None:
    task = ragged(corrupt=None)
    assert not task.has_corrupt
    assert not task[1:].has_corrupt
    assert ragged()[1:].has_corrupt


def test_swap_exchanges_and_twice_is_the_same() -> None:
    task = ragged(labels=[["a", "b", "c", "d"], ["e", "f"], ["g", "h", "i"]])
    other = task.swap()
    assert torch.equal(other.clean, task.corrupt)
    assert torch.equal(other.corrupt, task.clean)
    assert torch.equal(other.answer, task.wrong)
    assert torch.equal(other.wrong, task.answer)
    assert other.labels == (("a", "b", "i", "d"), ("f", "f", "", ""), ("g", "h", "a", ""))
    assert other.fingerprint() != task.fingerprint()
    assert other.swap().fingerprint() == task.fingerprint()


def test_swap_names_a_token_without_a_label_by_its_id() -> None:
    task = Task.from_tokens(clean=[[1, 2]], corrupt=[[1, 7]], answer=[1], wrong=[2], labels=[["a", "b"]])
    assert task.swap().labels == (("a", "#7"),)


def test_fingerprint_depends_on_every_part_and_not_on_names() -> None:
    base = ragged().fingerprint()
    assert len(base) == 64
    assert ragged(name="other", seed=5, template=["a", "a", "b"]).fingerprint() == base
    assert ragged(answer=[[1], [2], [3]]).fingerprint() == base
    changed = [
        ragged(clean=[[0, 2, 3, 4], *CLEAN[1:]]),
        ragged(corrupt=[[1, 3, 9, 4], *CORRUPT[1:]]),
        ragged(answer=[1, 2, 7]),
        ragged(wrong=[4, 5, 7]),
        ragged(positions=[2, 1, 2]),
        ragged(
            lengths=[4, 3, 3],
            clean=[*CLEAN[:1], [5, 6, 0], CLEAN[2]],
            corrupt=[CORRUPT[0], [6, 6, 0], CORRUPT[2]],
        ),
        ragged(metric=KL()),
        ragged()[:2],
    ]
    assert len({base, *(task.fingerprint() for task in changed)}) == 1 + len(changed)
