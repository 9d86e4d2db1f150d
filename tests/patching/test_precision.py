"""Products of lower precision: what they change is measured and said, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from cases import QUIET, task

import interp
from interp.engine.precision import lowered
from interp.models import weights

LOW: dict[str, Any] = {"precision": "bfloat16", **QUIET}


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def ioi(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=4)


def test_the_error_that_a_result_states_is_its_difference_from_float32(model: Any, ioi: interp.Task) -> None:
    """The grid has 12 cells, so all of them are measured."""
    exact, low = interp.patch(model, ioi, "z", **QUIET), interp.patch(model, ioi, "z", **LOW)
    gap = float(abs(low["value"] - exact["value"]).max())
    assert 0 < gap < 0.05 * float(abs(exact["value"]).max())
    assert low.attrs["precision_error"] == pytest.approx(gap, rel=1e-6)
    assert low.attrs["precision"].startswith("bfloat16 products: effects of 12 cells are off by at most")
    assert "precision" not in exact.attrs
    assert f"bfloat16 products, ±{gap:.1g}" in interp.plot.heads(low).layout.title.subtitle.text
    assert "bfloat16" in str(interp.results.facts(low)["precision"])


def test_every_site_and_patches_of_several_places(model: Any, ioi: interp.Task) -> None:
    sites = ["q", "k", "v", "pattern"]
    for options in (
        {"site": sites},
        {"site": ["resid_pre", "mlp_out"], "window": 2},
        {"cells": [["L0H0", "L1H1.q"]]},
    ):
        exact, low = interp.patch(model, ioi, **options, **QUIET), interp.patch(model, ioi, **options, **LOW)
        gap, largest = float(abs(low["value"] - exact["value"]).max()), float(abs(exact["value"]).max())
        assert 0 < gap < 0.05 * largest


def test_only_the_matrices_of_blocks_are_lowered(model: Any) -> None:
    whole = weights(model)
    low = lowered(whole, "bfloat16")
    assert low.W_E is whole.W_E
    assert low.W_U is whole.W_U
    for one, other in zip(low.blocks, whole.blocks):
        assert one.attn.W_Q.dtype == one.attn.W_O.dtype == torch.bfloat16
        assert one.attn.b_Q is other.attn.b_Q
        assert one.attn_norm is other.attn_norm
    assert all(lowered(whole, name) is whole for name in ("tf32", None))


def test_a_store_of_another_precision_is_refused(model: Any, ioi: interp.Task, tmp_path: Path) -> None:
    low = interp.patch(model, ioi, "z", store=tmp_path / "run.zarr", **LOW)
    again = interp.patch(model, ioi, "z", store=tmp_path / "run.zarr", **LOW)
    np.testing.assert_array_equal(again["value"], low["value"])
    with pytest.raises(ValueError, match=r"holds another run .precision: 'bfloat16' there, None here"):
        interp.patch(model, ioi, "z", store=tmp_path / "run.zarr", **QUIET)


def test_what_cannot_be_had_is_refused_at_the_door(model: Any, ioi: interp.Task) -> None:
    wrong = {
        "did you mean 'bfloat16'": {"precision": "bfloat"},
        "engine='reference' runs the model itself": {"precision": "bfloat16", "engine": "reference"},
        "precision is 16": {"precision": 16},
    }
    if str(model.cfg.device) == "cpu":
        wrong["TF32 is NVIDIA's GPUs' arithmetic, and the model is on cpu"] = {"precision": "tf32"}
    for words, options in wrong.items():
        with pytest.raises(ValueError, match=words):
            interp.patch(model, ioi, "z", **options, **QUIET)
    with pytest.raises(ValueError, match="lowers the products of a float32 model, and this one is float64"):
        interp.patch(small.model(), task(), "z", **LOW)


def test_a_model_that_has_to_be_run_itself_has_no_lower_precision(model: Any, ioi: interp.Task) -> None:
    model.add_hook("blocks.0.hook_mlp_out", lambda tensor, hook: 2 * tensor)
    try:
        with (
            pytest.warns(UserWarning, match="reference engine"),
            pytest.raises(ValueError, match="run itself"),
        ):
            interp.patch(model, ioi, "z", **LOW)
    finally:
        model.reset_hooks()
