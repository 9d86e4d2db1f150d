"""Gates: rows that are off are the unsteered model to the bit."""

from __future__ import annotations

import pytest
import torch

from interp import positions, steering
from interp.models import logits


def run(model, tokens, *interventions):
    with torch.no_grad(), steering.steer(model, *interventions):
        return logits(model, tokens)


@pytest.fixture
def direction(draw):
    return steering.Direction.from_tensor(draw(24), "L1.resid_pre")


def test_rows_that_are_off_are_bit_identical(toy, ids, direction):
    on = torch.tensor([True, False, False, True])
    base, full = run(toy, ids), run(toy, ids, steering.add(direction, 3.0))
    for gate in (steering.gates.rows(on), steering.gates.rows(on.double())):
        got = run(toy, ids, steering.add(direction, 3.0, gate=gate))
        assert torch.equal(got[~on], base[~on])
        assert torch.equal(got[on], full[on])
    assert (full - base).abs().amax((1, 2)).min() > 0.01
    half = run(toy, ids, steering.add(direction, 3.0, gate=steering.gates.rows(torch.full((4,), 0.5))))
    torch.testing.assert_close(half, run(toy, ids, steering.add(direction, 1.5)))


def test_a_condition_on_the_prompt_is_held_for_the_row(toy, ids, direction):
    """CAST: decided at an earlier place on the whole prompt, kept for every generated token."""
    rows = steering.activations(toy, ids, "L0.resid_post", "mean")
    reads = steering.Direction.from_tensor(rows[0] - rows[1:].mean(0), "L0.resid_post")
    cosines = torch.cosine_similarity(rows, reads.vector, dim=1)
    threshold = ((cosines[0] + cosines[1:].max()) / 2).item()
    gate = steering.gates.cosine_gate(reads, threshold, held="mean")
    made = steering.add(direction, 8.0, when=positions.generated, gate=gate)
    base = steering.generate(toy, ids, max_new_tokens=8)
    full = steering.generate(
        toy, ids, steering.add(direction, 8.0, when=positions.generated), max_new_tokens=8
    )
    assert not torch.equal(full[0], base[0])
    for use_cache in (True, False):
        got = steering.generate(toy, ids, made, max_new_tokens=8, use_cache=use_cache)
        assert torch.equal(got[1:], base[1:])
        assert torch.equal(got[0], full[0])


@pytest.mark.parametrize("held", ["last", "mean", "any"])
def test_what_a_held_gate_reads(model, ids, direction, held):
    seen = []

    def weigh(h):
        seen.append(h.clone())
        return torch.ones(h.shape[:2], dtype=torch.bool)

    gate = steering.gates.Gate(weigh, held=held)
    run(model, ids, steering.add(direction, 3.0, gate=gate))
    every = steering.activations(model, ids, "L1.resid_pre", "all").view(4, 6, 24)
    wanted = {"last": every[:, -1:], "mean": every.mean(1, keepdim=True), "any": every}
    torch.testing.assert_close(seen[-1], wanted[held])


def test_probes_and_controllers(model, ids, direction):
    every = steering.activations(model, ids, "L1.resid_pre", "all").view(4, 6, 24)
    weight, base = direction.vector, run(model, ids)
    score = every @ weight
    cut = score.flatten().sort().values[11:13].mean().item()
    gate = steering.gates.probe_gate(weight, -cut)
    got = run(model, ids, steering.add(direction, 3.0, gate=gate))
    marks = run(model, ids, steering.add(direction, 3.0, when=positions.mask(score > cut)))
    assert torch.equal(got, marks)
    assert not torch.equal(got, base)
    network = torch.nn.Sequential(torch.nn.Linear(24, 1), torch.nn.Sigmoid()).double()
    run(model, ids, steering.add(direction, 3.0, gate=steering.gates.controller(network)))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_what_a_gate_may_not_be(model, ids, direction):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for gate, match in (
            (lambda h: h.sum(), r"returned \(\)"),
            (lambda h: h, "return weights"),
            (
                steering.gates.cosine_gate(
                    direction.spread([steering.Intervention("L2.resid_pre", abs).place]), 0.0
                ),
                "after",
            ),
        ):
            with (
                pytest.raises(ValueError, match=match),
                steering.steer(model, steering.add(direction, gate=gate)),
            ):
                model(ids)
        with pytest.raises(ValueError, match="held is"):
            steering.gates.Gate(abs, held="first")
    finally:
        model.reset_hooks()
    assert not calls
