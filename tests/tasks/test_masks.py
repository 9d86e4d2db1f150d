"""A user's attention mask: the same in every verb, and a sentence for what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import circuits, probes, steering

QUIET: dict[str, Any] = {"progress": False}
PAD = 2


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 40, (n,), generator=generator).tolist() for n in (6, 4, 5, 6, 6, 4, 5, 6)]


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, padded to 7 tokens."""
    fill = [[PAD] * (7 - len(row)) for row in rows]
    marks = [
        [0] * len(f) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(f)
        for f, r in zip(fill, rows)
    ]
    ids = [f + r if side == "left" else r + f for f, r in zip(fill, rows)]
    return torch.tensor(ids), torch.tensor(marks)


def corrupted(rows: list[list[int]]) -> list[list[int]]:
    return [[row[0], 3 + row[1] % 30, *row[2:]] for row in rows]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_task_of_masked_ids_is_that_of_the_prompts(model: Any, rows: list[list[int]], side: str) -> None:
    answers = {"answer": [5] * 3, "wrong": [6] * 3}
    plain = interp.Task.from_tokens(clean=rows[:3], corrupt=corrupted(rows[:3]), **answers)
    (clean, mask), (corrupt, _) = padded(rows[:3], side), padded(corrupted(rows[:3]), side)
    for marks in (mask, mask.bool(), mask.double(), mask.tolist()):
        masked = interp.Task.from_tokens(clean=clean, corrupt=corrupt, mask=marks, pad=PAD, **answers)
        assert masked.lengths.tolist() == plain.lengths.tolist()
    for verb in (
        lambda task: interp.patch(model, task, "z", **QUIET)["value"].values,
        lambda task: interp.attribute(model, task, "z", **QUIET)["value"].values,
        lambda task: circuits.score_edges(model, task, **QUIET)["value"].values,
    ):
        expected = verb(plain)
        assert np.nanmax(abs(verb(masked) - expected)) <= 1e-5
        assert np.nanmax(abs(expected)) > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_verbs_of_prompts_read_the_mask(model: Any, rows: list[list[int]], side: str) -> None:
    (up, marks), (down, others) = padded(rows[:4], side), padded(rows[4:], side)
    vector = steering.mean_difference(model, rows[:4], rows[4:], layer=1, pos="mean").vector
    masked = steering.mean_difference(model, up, down, layer=1, pos="mean", mask=(marks, others))
    torch.testing.assert_close(masked.vector, vector, rtol=0, atol=1e-5)
    plain = interp.activations(model, rows[:4], "L2.resid_pre")
    for ids in (up, up.tolist()):
        found = interp.activations(model, ids, "L2.resid_pre", mask=marks)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    options: dict[str, Any] = {"layer": 1, "pos": "mean", "draws": 1, "held_out": 0.5, **QUIET}
    one, made = probes.fit(model, rows[:4], rows[4:], **options)
    two, _ = probes.fit(model, up, down, mask=(marks, others), **options)
    assert one["auroc"].values == two["auroc"].values
    scores = [
        made.score(model, ids, mask=mask)["logit"].values for ids, mask in ((rows[:4], None), (up, marks))
    ]
    assert abs(scores[0] - scores[1]).max() <= 1e-4
    alone = [steering.generate(model, [row], max_new_tokens=3, stop=())[0, -3:] for row in rows[:4]]
    new = steering.generate(model, up, mask=marks, max_new_tokens=3, stop=())
    at = marks.sum(1) if side == "right" else torch.full((4,), 7)
    assert [row[n : n + 3].tolist() for row, n in zip(new, at.tolist())] == [row.tolist() for row in alone]


BAD: dict[str, tuple[Any, str]] = {
    "shape": ([[1, 1]], r"mask has shape \(1, 2\), the prompts \(2, 4\)"),
    "additive": ([[0.0, 0.0, -1e9, -1e9]] * 2, r"mask holds -1e\+09, 0; give 1 where a token is real"),
    "infinite": (
        [[0.0, 0.0, float("-inf"), 0.0]] * 2,
        r"mask (holds -inf, 0; give 1|is .* of finite)",
    ),
    "numbers": ([[1, 2, 1, 1]] * 2, "mask holds 1, 2; give 1"),
    "empty": ([[1, 1, 1, 1], [0, 0, 0, 0]], "prompt 1: its mask has no real token"),
    "gap": ([[1, 0, 1, 1], [1, 1, 1, 1]], "prompt 0: its mask has a gap inside"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_mask_gets_a_sentence(model: Any, kind: str) -> None:
    mask, said = BAD[kind]
    ids = [[5, 6, 7, 8], [9, 8, 7, 6]]
    for call in (
        lambda: interp.Task.from_tokens(clean=ids, answer=[5, 5], wrong=[6, 6], mask=mask),
        lambda: interp.activations(model, torch.tensor(ids), "L1.resid_pre", mask=torch.tensor(mask)),
        lambda: steering.generate(model, torch.tensor(ids), mask=torch.tensor(mask), max_new_tokens=1),
        lambda: probes.fit(model, ids, ids, mask=(torch.tensor(mask), None), **QUIET),
        lambda: steering.mean_difference(model, ids, ids, mask=(torch.tensor(mask), None), layer=0),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_mask_that_hides_what_is_read() -> None:
    ids, mask = [[PAD, PAD, 5, 6]], [[0, 0, 1, 1]]
    options: dict[str, Any] = {"clean": ids, "mask": mask, "pad": PAD}
    said = "prompt 0: the mask hides position 1, at which the metric reads; its tokens stand at 2 to 3"
    with pytest.raises(ValueError, match=said):
        interp.Task.from_tokens(**options, answer=[5], wrong=[6], positions=[1])
    with pytest.raises(ValueError, match=said):  # counted from the first real token it would be -1, no read
        interp.Task.from_tokens(**options, answer=[[5, 5]], wrong=[[6, 6]], positions=[[3, 1]])
    read = interp.Task.from_tokens(**options, answer=[[5, 5]], wrong=[[6, 6]], positions=[[3, -1]])
    assert read.positions.tolist() == [[1, -1]]


def test_labels_go_with_their_tokens() -> None:
    task = interp.Task.from_tokens(
        clean=[[PAD, 5, 6]], mask=[[0, 1, 1]], pad=PAD, answer=[5], wrong=[6], labels=[["", "a", "b"]]
    )
    assert task.labels == (("a", "b", ""),)


def test_a_mask_beside_what_has_none(model: Any) -> None:
    mask = torch.ones(1, 3)
    for data in ("Mary gave", ["Mary gave"], [[3, 4, 5], [3, 4]], interp.tasks.ioi(model, n=2)):
        with pytest.raises(ValueError, match=r"mask= says which of token ids \[prompt, pos\] are padding"):
            interp.activations(model, data, "L1.resid_pre", mask=mask)
    with pytest.raises(ValueError, match="both mask= and lengths="):
        interp.Task.from_tokens(clean=[[3, 4, 5]], mask=mask, lengths=[3], answer=[5], wrong=[6])
