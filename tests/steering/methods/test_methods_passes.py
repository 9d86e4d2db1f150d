"""What methods cost, in forward passes: what several effects are compared with runs once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import small
import torch

from interp import Task, subspaces
from interp.steering import Direction, methods
from interp.steering.methods import _measure
from interp.tasks import KL, Loss

N = 6


@pytest.fixture(scope="module")
def net() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def task() -> Task:
    ids = torch.randint(3, 30, (N, 5), generator=torch.Generator().manual_seed(8))
    return Task.from_tokens(clean=ids.tolist(), corrupt=ids.flip(1).tolist(), answer=[4] * N, wrong=[9] * N)


@pytest.fixture(scope="module")
def direction(net: Any) -> Direction:
    vector = torch.randn(net.cfg.d_model, generator=torch.Generator().manual_seed(0)).double()
    return Direction.from_tensor(vector, "resid_pre", 1)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """The rows of every pass of more than one row: a proof of hook points runs one."""
    rows: list[int] = []

    def count(tensor: torch.Tensor, hook: Any) -> None:
        if len(tensor) > 1:
            rows.append(len(tensor))

    with model.hooks(fwd_hooks=[("hook_embed", count)]):
        yield rows


def test_paths_share_the_plain_pass_and_the_whole_effect(net, task, direction):
    with counted(net) as rows:
        methods.vector_paths(net, direction, task, progress=False)
    held_by_layer = 2 * (net.cfg.n_layers - 1)  # attention and MLP of every layer from the vector on
    assert len(rows) == 1 + 4 + 4 + held_by_layer  # plain; four runs of the vector and of a random one


def test_effects_of_one_task_share_its_plain_pass(net, task, direction):
    ids = task.clean
    skills = methods.native_skills(net, ids, 2, layer=1)
    neurons = methods.relation_neurons(net, {"a": ids[:3], "b": ids[3:]}, 2)
    part = subspaces.Subspace(direction.unit().vector[:, None], "L1.resid_pre")
    calls = {
        3: lambda: methods.under_shift(net, direction, {"as it is": task}, progress=False),
        1 + 4 * 2: lambda: methods.rank_skills(net, skills, task, progress=False),
        1 + 2 * 2: lambda: methods.interference(net, {"t": task}, neurons, progress=False),
        1 + 2: lambda: methods.cumulativity(net, task, neurons["a"], [1], progress=False),
        1 + 2 * 3: lambda: subspaces.amplification(
            net, {"t": task}, part, [-1.0, 0.0, 1.0], draws=1, progress=False
        ),
    }
    for passes, call in calls.items():
        with counted(net) as rows:
            call()
        assert len(rows) == passes


def test_the_pass_that_reaches_a_kl_is_the_one_that_is_read(net, task, direction):
    strengths = []

    def act(strength: float) -> Any:
        strengths.append(strength)
        return methods.add_after_prompt(direction, strength)

    with counted(net) as rows:
        table = methods.compare(net, task, {"it": act}, 0.05, progress=False)
    assert len(rows) == 1 + len(strengths)
    by_hand = methods.measure(net, task, act(float(table["strength"][0]))) - methods.measure(net, task)
    torch.testing.assert_close(torch.tensor(table["value"].sel(run="it").values), by_hand)


@pytest.mark.parametrize("metric", [[KL()], [KL(), Loss()]])
def test_batches_of_a_task_are_compared_with_their_own_plain_pass(net, task, direction, metric, monkeypatch):
    """Logits of all positions are not kept of several batches."""
    made = methods.add_after_prompt(direction, 2.0)
    whole = methods.measure(net, task, made, metric=metric)
    monkeypatch.setattr(_measure, "_ROWS", 2)
    torch.testing.assert_close(methods.measure(net, task, made, metric=metric), whole)
