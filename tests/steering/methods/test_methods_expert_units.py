"""AurA: factors by expertise, 1 at chance and 0 for a perfect expert; planted experts are found."""

from __future__ import annotations

import architectures
import pytest
import torch

from interp import steering
from interp.models import logits
from interp.steering import methods, selectors


def test_factors_at_chance_below_it_and_at_the_ends():
    auroc = torch.tensor([0.5, 1.0, 0.75, 0.2, 0.0, 0.6]).double()
    wanted = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.8]).double()
    torch.testing.assert_close(methods.aura_factors(auroc), wanted)


def test_a_perfect_expert_is_taken_out_and_a_unit_that_knows_nothing_stays():
    up = torch.tensor([[3.0, 1.0, 0.0], [4.0, 2.0, -1.0]])
    down = torch.tensor([[1.0, 2.0, 5.0], [2.0, 1.0, 6.0]])
    found = methods.ExpertUnits(selectors.auroc(up, down)[None], (1,))
    assert found.factors.tolist() == [[0.0, 1.0, 1.0]]
    h = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    (made,) = found.damp()
    assert torch.equal(made.edit(h), h * torch.tensor([0.0, 1.0, 1.0]))
    half = found.damp(0.5)[0].edit(h)
    torch.testing.assert_close(half[..., 0], 0.5 * h[..., 0])
    assert torch.equal(half[..., 1:], h[..., 1:])


def test_the_expertise_is_the_auroc_of_the_largest_activation(model, ids):
    found = methods.expert_units(model, ids[:2], ids[2:], layer=[0, 2])
    assert found.layers == (0, 2)
    rows = [methods.neuron_activations(model, side, layer=[0, 2], pos="max") for side in (ids[:2], ids[2:])]
    by_hand = (rows[0][:, None] > rows[1][None]).double().mean((0, 1))
    torch.testing.assert_close(found.auroc, by_hand)


def test_experts_of_a_token_are_the_planted_neurons():
    model = architectures.build({"normalization_type": None, "act_fn": "relu"})
    with torch.no_grad():
        model.embed.W_E[:, 0] = 0.0
        model.embed.W_E[4, 0] = 20.0
        for block in model.blocks:
            block.attn.W_O[..., 0] = block.mlp.W_out[..., 0] = 0.0
            for weight in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
                weight[:, 0] = 0.0
            block.mlp.W_in[0] = 0.0
        block = model.blocks[1]
        block.mlp.W_in[:, [3, 17]] = 0.0
        block.mlp.W_in[0, [3, 17]] = 1.0
    rows = torch.randint(5, 30, (40, 6), generator=torch.Generator().manual_seed(0))
    marked = rows[:20].clone()
    marked[:, 2] = 4
    found = methods.expert_units(model, marked, rows[20:], layer=1)
    assert set(found.experts(2).ranked) == {(1, 3), (1, 17)}
    assert found.auroc[0, [3, 17]].tolist() == [1.0, 1.0]
    rest = torch.ones(40, dtype=torch.bool)
    rest[[3, 17]] = False
    assert found.factors[0, [3, 17]].abs().max() == 0
    assert found.factors[0, rest].mean() > 0.4
    seen = []
    keep = [("blocks.1.mlp.hook_post", lambda tensor, hook: seen.append(tensor.clone()))]
    with torch.no_grad(), steering.steer(model, *found.damp()), model.hooks(fwd_hooks=keep):
        logits(model, marked)
    assert (seen[0][..., [3, 17]] == 0).all()


def test_strength_zero_is_the_model_to_the_bit(model, ids):
    found = methods.expert_units(model, ids[:2], ids[2:])

    def run(*made):
        with torch.no_grad(), steering.steer(model, *made):
            return logits(model, ids)

    assert torch.equal(run(found.damp(0.0)), run())
    assert (run(found.damp()) - run()).abs().max() > 1e-3


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    found = methods.ExpertUnits(torch.full((1, 4), 0.5), (0,))
    try:
        for call, match in (
            (lambda: methods.expert_units(model, [], ids), "positive: got no prompts"),
            (lambda: methods.expert_units(model, ids, ids, layer=3), "out of range"),
            (lambda: methods.aura_factors(torch.tensor([1.2])), "outside 0 to 1"),
            (lambda: found.damp(float("nan")), "strength is nan"),
            (lambda: found.experts(5), "there are 4 neurons"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
