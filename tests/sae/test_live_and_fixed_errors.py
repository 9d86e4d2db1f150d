"""What a dictionary leaves out when something upstream changes: sweeps let it follow, circuits hold it.

Live: x as it comes, so that the dictionary is transparent. Fixed: x̂ of what comes + the error of the clean
run, so that what the change does outside the dictionary's span is lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import small
import torch
from torch import Tensor

import interp
from interp import sae
from interp.sae._graph import Node

QUIET: Any = {"progress": False}
LOW, HIGH = "L1.resid_pre", "L2.resid_pre"
F, FEATURE = 24, 3


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def task() -> interp.Task:
    return interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )


def drawn(place: str, seed: int) -> sae.Dictionary:
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    return sae.Dictionary(r(24, F) / 5, 0.5 + 0.1 * r(F), r(F, 24) / 5, 0.1 * r(24), place=place)


def perfect(place: str) -> sae.Dictionary:
    """Each axis up and down: no error, whatever comes."""
    both = torch.cat((torch.eye(24), -torch.eye(24))).double()
    return sae.Dictionary(both.T, torch.zeros(48).double(), both, torch.zeros(24).double(), place=place)


def metric(model: Any, task: interp.Task, low: Any = None, high: Any = None) -> Tensor:
    """Logit differences under plain hooks that put something at either site."""
    hooks = [(f"blocks.{n}.hook_resid_pre", put) for n, put in ((1, low), (2, high)) if put is not None]
    with torch.no_grad():
        out = model.run_with_hooks(task.clean, fwd_hooks=hooks)
    row = torch.arange(len(task))
    last = out[row, task.positions]
    return last[row, task.answers[:, 0]] - last[row, task.wrongs[:, 0]]


def without_one(d: sae.Dictionary) -> Any:
    """A hook that takes a feature's contribution out of what comes."""
    return lambda x, hook: x - d.contributions(x)[..., FEATURE, None] * d.W_dec[FEATURE]


def held(model: Any, task: interp.Task, d: sae.Dictionary) -> Any:
    """A hook that puts x̂ of what comes and the error of the clean run."""
    clean = model.run_with_cache(task.clean)[1]["blocks.2.hook_resid_pre"].detach()
    error = clean - d(clean)
    return lambda x, hook: d(x) + error


def circuit(model: Any, task: interp.Task, ds: list[sae.Dictionary], out: tuple[str, int]) -> Tensor:
    """All nodes but one, by `sae.faithfulness`."""
    nodes = [
        Node(str(d.place), i, -1, 0.0)
        for d in ds
        for i in range(-1, d.n_features)
        if (str(d.place), i) != out
    ]
    graph = sae.FeatureGraph(tuple(str(d.place) for d in ds), tuple(nodes), ())
    judged = sae.faithfulness(model, task, graph, ds, ablation="zero", **QUIET)
    assert judged.attrs["error"] == "fixed"
    return torch.as_tensor(judged["raw"].sel(run="circuit").values)


def sweep(model: Any, task: interp.Task, d: sae.Dictionary) -> Tensor:
    """The same feature alone, by `interp.patch`."""
    name = f"{d.place}.F{FEATURE}"
    options: Any = {"direction": "noise", "ablation": "zero", "cells": [name], **QUIET}
    found = interp.patch(model, task, features=d, **options)
    return torch.as_tensor((found["clean"] - found["value"][:, 0]).values)  # what it helps is what is lost


def test_they_differ_where_the_change_leaves_the_span(model: Any, task: interp.Task) -> None:
    low, high = drawn(LOW, 0), drawn(HIGH, 1)
    live, fixed = sweep(model, task, low), circuit(model, task, [low, high], (LOW, FEATURE))
    by_hand = [metric(model, task, without_one(low), put) for put in (None, held(model, task, high))]
    np.testing.assert_allclose(live, by_hand[0], atol=1e-9)
    np.testing.assert_allclose(fixed, by_hand[1], atol=1e-9)
    clean = metric(model, task)
    for found in (live, fixed):
        assert float((found - clean).abs().min()) > 1e-3  # neither is nothing
    assert float((live - fixed).abs().min()) > 1e-3


def test_they_agree_where_nothing_upstream_changes(model: Any, task: interp.Task) -> None:
    low, high = drawn(LOW, 0), drawn(HIGH, 1)
    live, fixed = sweep(model, task, high), circuit(model, task, [low, high], (HIGH, FEATURE))
    np.testing.assert_allclose(live, fixed, atol=1e-9)
    np.testing.assert_allclose(live, metric(model, task, None, without_one(high)), atol=1e-9)
    assert float((live - metric(model, task)).abs().min()) > 1e-3


def test_they_agree_where_nothing_is_left_out(model: Any, task: interp.Task) -> None:
    low, high = drawn(LOW, 0), perfect(HIGH)
    live, fixed = sweep(model, task, low), circuit(model, task, [low, high], (LOW, FEATURE))
    np.testing.assert_allclose(live, fixed, atol=1e-9)
    assert float((live - metric(model, task)).abs().min()) > 1e-3
