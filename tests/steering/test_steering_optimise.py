"""Learnt vectors."""

from __future__ import annotations

import pytest
import torch

from interp import positions, steering
from interp.models import logits


def target_log(model, ids, targets, *interventions):
    with torch.no_grad(), steering.steer(model, *interventions):
        return logits(model, ids)[:, -1].log_softmax(-1).gather(1, targets[:, None]).mean().item()


def test_a_learnt_vector_promotes_and_suppresses(model, ids):
    targets = torch.tensor([4, 4, 9, 9])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    base = target_log(model, ids, targets)
    up = steering.optimise(model, ids, targets, layer=1, steps=40, lr=0.3)
    down = steering.optimise(model, ids, targets, layer=1, steps=40, lr=0.3, suppress=True)
    assert target_log(model, ids, targets, steering.add(up)) > base + 1
    assert (
        target_log(model, ids, targets, steering.add(down))
        < target_log(model, ids, targets, steering.add(up)) - 1
    )
    again = steering.optimise(model, ids, targets, layer=1, steps=40, lr=0.3)
    assert torch.equal(again.vector, up.vector)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_norm_is_kept_and_longer_targets_count(model, ids):
    targets = [[4, 5], [6], [7, 8, 9], [3]]
    d = steering.optimise(
        model, ids, targets, layer=1, steps=10, lr=0.5, max_norm=1.5, when=positions.generated
    )
    assert d.vector.norm().item() <= 1.5 + 1e-9
    assert d.vector.norm().item() > 1.0
    with pytest.raises(ValueError, match="2 targets for 4 prompts"):
        steering.optimise(model, ids, [[3], [4]], layer=1)


def test_learn_differentiates_what_it_is_given_alone(draw):
    wanted = draw(5)
    learnt, losses = steering.learn(
        {"x": torch.zeros(5).double()}, lambda p: (p["x"] - wanted).square().sum(), steps=300
    )
    torch.testing.assert_close(learnt["x"], wanted, rtol=0, atol=1e-2)
    assert losses[-1] < 1e-3 * losses[0]
    with pytest.raises(ValueError, match="does not depend on 'y'"):
        steering.learn({"x": torch.zeros(2), "y": torch.zeros(2)}, lambda p: p["x"].square().sum())
