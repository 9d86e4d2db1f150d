"""What is trained on a model in half precision is trained in float32, and gets as far."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import interp
from interp import Task, steering
from interp.steering import methods
from interp.steering.methods._attack import _Run

HALF = torch.bfloat16


@pytest.fixture(scope="module")
def whole() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(whole: Any) -> Task:
    return interp.tasks.ioi(whole, n=8, seed=0)


def lineas(model: Any, task: Task) -> tuple[dict[str, torch.Tensor], float]:
    act = methods.lineas(model, task.clean[:4], task.clean[4:], ["L1.resid_post"], steps=12)
    where = act.places[0]
    return {"scale": act.scale[where], "shift": act.shift[where]}, act.losses[-1]


def optimise(model: Any, task: Task) -> tuple[dict[str, torch.Tensor], float]:
    d = steering.optimise(model, task.clean, task.wrongs[:, :1], layer=1, steps=12, lr=0.3)
    return {"vector": d.vector}, float(methods.measure(model, task, steering.add(d)).mean())


def adaptive(model: Any, task: Task) -> tuple[dict[str, torch.Tensor], float]:
    it = methods.adaptive_vector(model, task.clean, task.wrongs[:, :1], layer=1, steps=12, lr=0.3)
    return {"vector": it.direction.vector, "weight": it.weight}, it.losses[-1]


def adapter(model: Any, task: Task) -> tuple[dict[str, torch.Tensor], float]:
    it = methods.rank_one_adapter(model, task.clean, task.wrongs[:, :1], layer=1, steps=12, lr=0.3)
    return {"r": it.r, "w": it.w}, it.losses[-1]


def bias(model: Any, task: Task) -> tuple[dict[str, torch.Tensor], float]:
    d = methods.tuned_bias(model, task.clean, task.wrongs[:, :1], layer=1, steps=12, lr=0.1)
    return {"vector": d.vector}, float(methods.measure(model, task, steering.add(d)).mean())


@pytest.mark.parametrize("train", [lineas, optimise, adaptive, adapter, bias])
def test_training_is_in_float32(whole: Any, task: Task, train: Any) -> None:
    """In half precision most steps of a twentieth would round to none; what is reached is as in float32."""
    model = interp.load("tiny-ioi", dtype=HALF)
    learnt, reached = train(model, task)
    _, right = train(whole, task)
    for value in learnt.values():
        assert value.dtype in (torch.float32, torch.float64)
        assert not torch.equal(value, value.to(HALF).to(value))  # more than that precision can hold
    assert reached == pytest.approx(right, rel=0.1, abs=0.1)


def test_an_attack_on_half_precision_is_the_attack(whole: Any, task: Task) -> None:
    model, seen = interp.load("tiny-ioi", dtype=HALF), []
    train = _Run.train

    def watched(self: Any, *arguments: Any) -> Any:
        seen.append(train(self, *arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "train", watched)
        for each in (model, whole):
            methods.attack_scaling(each, task.clean[:1], [2], [2], steps=30, n_targets=2, progress=False)
    (half, _), (right, _) = seen
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.to(HALF).float())
    cosine = torch.cosine_similarity(half.flatten(1), right.flatten(1))
    assert cosine.min() > 0.95
