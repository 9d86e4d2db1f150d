"""Values at random and values that are none: every verb says so, and gives no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from doors import READINGS, REFERENCE, VERBS

import interp


@pytest.fixture(scope="module")
def task() -> interp.Task:
    return interp.tasks.ioi(interp.load("tiny-ioi"), n=8, seed=0)


@pytest.fixture(scope="module")
def in_train_mode() -> Any:
    """One norm alone: no flag of the whole model says it."""
    model = interp.load("tiny-ioi")
    model.blocks[1].ln2.train()
    return model


@pytest.fixture(scope="module")
def overflowing() -> Any:
    """As float16 where the stream outgrows it: nothing is finite after the first MLP."""
    model = interp.load("tiny-ioi")
    with torch.no_grad():
        model.blocks[0].mlp.b_out.fill_(float("inf"))
    return model


def options_of(name: str) -> tuple[dict[str, Any], ...]:
    return ({}, {"engine": "reference"}) if name in REFERENCE else ({},)


@pytest.mark.parametrize("name", VERBS)
def test_a_part_in_train_mode_is_refused_at_every_door(
    name: str, in_train_mode: Any, task: interp.Task
) -> None:
    for options in options_of(name):
        with pytest.raises(ValueError, match=r"blocks\.1\..*ln_?2.* is in train mode, where dropout may act"):
            VERBS[name](in_train_mode, task, **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in VERBS if name not in READINGS])
def test_values_that_are_not_finite_are_never_an_answer(
    name: str, overflowing: Any, task: interp.Task
) -> None:
    for options in options_of(name):
        with pytest.raises(ValueError, match=r"not finite|\bnan\b|\binf\b"):
            VERBS[name](overflowing, task, **options)
