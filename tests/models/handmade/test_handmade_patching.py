"""interp.patch on hand-built models, where the outcome of each patch is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp.tasks import Task
from interp.tasks.handmade import or_gate, reverse, some_inputs

ENGINES = ["fast", "reference"]


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("reverse")


@pytest.fixture(scope="module")
def task(model: Any) -> Task:
    return reverse(model, n=64, seed=0)


def with_the_clean_length(model: Any, task: Task) -> np.ndarray:
    """The corrupt letters, read where the clean prompt would read them: the logit difference."""
    equals = model.to_single_token("=")
    source = 2 * (task.clean == equals).int().argmax(-1) - 1 - task.positions
    letter = task.corrupt[torch.arange(len(task)), source]
    return 10.0 * ((letter == task.answer).double() - (letter == task.wrong).double()).numpy()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_head_of_reverse_restores_the_answer(model: Any, task: Task, engine: str) -> None:
    result = interp.patch(model, task, "z", engine=engine)
    assert result["clean"].values == pytest.approx(10.0, abs=1e-4)
    assert result["corrupt"].values == pytest.approx(-10.0, abs=1e-4)
    assert result["value"].sel(layer=2, head=0).values == pytest.approx(20.0, abs=1e-4)
    assert abs(result["value"].sel(layer=1, head=0).values).max() == 0.0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_head_and_the_mlps_of_reverse_restore_the_length(
    model: Any, task: Task, engine: str
) -> None:
    wanted = with_the_clean_length(model, task) + 10.0
    assert {-10.0, 0.0, 10.0, 20.0} >= set(wanted.tolist())
    assert {0.0, 20.0} <= set(wanted.tolist())
    heads = interp.patch(model, task, "z", engine=engine)["value"]
    mlps = interp.patch(model, task, "mlp_out", by="layer", engine=engine)["value"]
    assert heads.sel(layer=0, head=0).values == pytest.approx(wanted, abs=1e-4)
    assert mlps.sel(layer=0).values == pytest.approx(wanted, abs=1e-4)
    assert mlps.sel(layer=1).values == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("xproportion", "denoise"),
        ("induction", "denoise"),
        ("and-gate", "noise"),
        ("or-gate", "denoise"),
        ("linear", "noise"),
    ],
)
def test_both_engines_agree(name: str, direction: str) -> None:
    model = interp.load(name)
    task = some_inputs(model, name, n=16)
    for site in ("resid_pre", "z", "v"):
        fast, slow = (
            interp.patch(model, task, site, direction=direction, engine=engine)["value"].values
            for engine in ENGINES
        )
        assert fast == pytest.approx(slow, abs=1e-5)
        assert abs(slow).max() > 0.3


def test_one_head_of_the_or_gate_makes_good_and_none_is_missed() -> None:
    """Denoising either head gives the whole effect; noising either gives none of it."""
    model = interp.load("or-gate")
    task = or_gate(model, n=32)
    helps = interp.patch(model, task, "z", direction="denoise")["value"].values
    needed = interp.patch(model, task, "z", direction="noise")["value"].values
    assert helps == pytest.approx(np.full((32, 1, 2), 10.0), abs=1e-4)
    assert abs(needed).max() <= 1e-5
