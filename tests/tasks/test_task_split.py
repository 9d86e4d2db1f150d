"""Discovery and verification: parts of a task that have no independent unit in common."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.tasks import Task


def pairs(n: int, templates: int) -> Task:
    """n mirrored pairs, by turns from so many templates."""
    rows = [[i, i + 50] for i in range(n)]
    clean = [row[::step] for row in rows for step in (1, -1)]
    return Task.from_tokens(
        clean=clean, corrupt=[row[::-1] for row in clean], answer=[1] * 2 * n, wrong=[2] * 2 * n,
        template=[f"t{i // 2 % templates}" for i in range(2 * n)],
    )  # fmt: skip


def texts(task: Task) -> set[tuple[int, ...]]:
    return {tuple(row) for side in (task.clean, task.corrupt) for row in side.tolist()}


@pytest.mark.parametrize("templates", [3, 10])
def test_parts_share_no_text_and_keep_every_prompt(templates: int) -> None:
    task = pairs(30, templates)
    parts = task.split(share=0.4, seed=1)
    assert [part.part for part in parts] == ["discovery", "verification"]
    assert [len(part) for part in parts] == [24, 36]
    assert not texts(parts[0]) & texts(parts[1])
    assert texts(parts[0]) | texts(parts[1]) == texts(task)
    shared = set(parts[0].template) & set(parts[1].template)
    assert shared == (set() if templates == 10 else {"t0", "t1", "t2"})


def test_the_seed_decides_and_prompts_keep_their_order() -> None:
    task = pairs(12, 1)
    one, same, other = (task.split(seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.clean, same.clean)
    assert not torch.equal(one.clean, other.clean)
    at = [texts(task[i]) for i in range(24)].index
    rows = [at(texts(one[i])) for i in range(len(one))]
    assert rows == sorted(rows)


def test_a_result_remembers_its_part() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=8, seed=0, template=0)
    found = interp.patch(model, task.split()[1], "z", progress=False)
    assert found.attrs["part"] == "verification"
    assert "part" not in interp.patch(model, task, "z", progress=False).attrs
    circuit = interp.circuits.top(interp.circuits.score_edges(model, task, progress=False), 20)
    for prompts, said in ((task, "the same prompts"), (task[:6], "other prompts")):
        judged = interp.circuits.evaluate(model, prompts, circuit, progress=False)
        assert judged.attrs["selected_on"] == said


def test_an_empty_part_is_a_sentence() -> None:
    with pytest.raises(
        ValueError, match=r"of 4 independent units .* would go to discovery, and one part would"
    ):
        pairs(4, 1).split(share=0.1)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_a_share_that_is_none_or_all_is_a_sentence(share: float) -> None:
    with pytest.raises(ValueError, match=f"share is {share}; give that of the prompts to discover on"):
        pairs(4, 1).split(share=share)
