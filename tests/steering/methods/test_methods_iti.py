"""ITI: planted heads are found, others are at chance, and the shift is what the paper writes."""

from __future__ import annotations

import architectures
import pytest
import torch

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.steering import methods
from interp.steering.methods._iti import fit_heads

PLANTED = ((0, 1), (2, 3))


@pytest.fixture
def heads(draw):
    """z of 3 layers of 4 heads: noise, and in two heads a shift of 3 standard deviations along an axis."""
    up, down, axes = draw(60, 3, 4, 6), draw(50, 3, 4, 6), draw(3, 4, 6)
    axes = axes / axes.norm(dim=-1, keepdim=True)
    for layer, head in PLANTED:
        up[:, layer, head] += 3 * axes[layer, head]
    return up, down, axes


@pytest.mark.parametrize("direction", ["mass_mean", "probe"])
def test_planted_heads_are_found_and_random_ones_are_at_chance(heads, direction):
    up, down, axes = heads
    accuracy, theta, sigma = fit_heads(up, down, fit=direction)
    found = methods.HeadShifts(accuracy, theta, sigma, (0, 1, 2))
    assert set(found.top(2)) == {parse("L0H1"), parse("L2H3")}
    planted = torch.zeros(3, 4, dtype=torch.bool)
    planted[tuple(torch.tensor(PLANTED).T)] = True
    assert accuracy[planted].min() > 0.8  # the best there is: 0.93
    assert accuracy[~planted].mean().item() == pytest.approx(0.5, abs=0.1)
    cosines = (theta * axes).sum(-1)
    assert cosines[planted].min() > 0.9
    along = torch.cat((up, down))[:, 0, 1] @ theta[0, 1]
    assert sigma[0, 1].item() == pytest.approx(along.std().item())
    assert sigma[0, 1] > 1.5  # two classes 3 apart: sqrt(1 + 3²/4) = 1.8


def test_shuffled_pairs_are_at_chance_everywhere(heads):
    up, down, _ = heads
    both = torch.cat((up, down))[torch.randperm(110, generator=torch.Generator().manual_seed(0))]
    accuracy, _, _ = fit_heads(both[:60], both[60:])
    assert accuracy.max() < 0.85
    assert accuracy.mean().item() == pytest.approx(0.5, abs=0.1)


def test_pairs_fall_on_one_side_of_the_split(draw):
    """Pairs are near twins and there is no class signal. A probe goes by the twin that it has seen."""
    offset = draw(12, 1, 1, 40)
    up, down = offset + 1e-2 * draw(12, 1, 1, 40), offset + 1e-2 * draw(12, 1, 1, 40)
    mean = {}
    for paired in (True, False):
        seen = [fit_heads(up, down, paired=paired, share=0.5, seed=seed)[0] for seed in range(8)]
        mean[paired] = torch.stack(seen).mean().item()
    assert mean[True] == pytest.approx(0.5, abs=0.1)
    assert mean[False] < 0.35


def test_the_heads_of_a_model_whose_values_carry_the_tokens():
    """All heads but two read nothing: their values are constant. Tokens of the classes differ on an axis."""
    model = architectures.build({})
    axis = torch.randn(24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.no_grad():
        for layer in range(3):
            for head in range(4):
                if (layer, head) not in PLANTED:
                    model.blocks[layer].attn.W_V[head] = 0.0
        model.embed.W_E[15:] += 2 * axis
    up = torch.randint(15, 30, (40, 5), generator=torch.Generator().manual_seed(0))
    down = up - 15
    found = methods.head_shifts(model, up, down)
    assert set(found.top(2)) == {parse("L0H1"), parse("L2H3")}
    rest = torch.ones(3, 4, dtype=torch.bool)
    rest[tuple(torch.tensor(PLANTED).T)] = False
    torch.testing.assert_close(found.accuracy[rest], torch.full((10,), 0.5).double())
    assert found.sigma[rest].max() < 1e-12


def test_the_shift_moves_z_by_alpha_sigma_theta_and_equals_the_mapped_shift_after_w_o(model, ids):
    many = torch.randint(3, 30, (12, ids.shape[1]), generator=torch.Generator().manual_seed(5))
    found = methods.head_shifts(model, many[:6], many[6:], layer=[0, 1])
    where = found.top(1)[0]
    step = 2.5 * found.sigma[where.layer, where.head] * found.theta[where.layer, where.head]
    zero = found.direction(1)
    torch.testing.assert_close(2.5 * zero.vector, step)

    def run(*made):
        with torch.no_grad(), steering.steer(model, *made):
            return logits(model, ids)

    ours = run(found.shift(1, 2.5))
    mapped = step @ model.W_O[where.layer, where.head]
    other = run(steering.add(steering.Direction.from_tensor(mapped, f"L{where.layer}.attn_out")))
    torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)
    assert torch.equal(run(found.shift(3, 0.0)), run())
    assert (ours - run()).abs().max() > 1e-3


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    probe = methods.head_shifts
    try:
        for call, match in (
            (lambda: probe(model, ids, ids[:1]), "4 and 1 prompts; a split needs two"),
            (lambda: probe(model, ids, ids[:3], paired=True), "4 positive and 3 negative"),
            (lambda: probe(model, ids, ids, share=1.0), "share is 1.0"),
            (lambda: probe(model, ids, ids, fit="mean"), "fit is 'mean'"),
            (lambda: probe(model, ids, ids, layer=5), "out of range"),
            (lambda: probe(model, [], ids), "positive: got no prompts"),
            (lambda: probe(model, ids, ids, pos=6), "outside prompt 0"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
    found = methods.HeadShifts(torch.rand(3, 4), torch.rand(3, 4, 6), torch.rand(3, 4), (0, 1, 2))
    with pytest.raises(ValueError, match="there are 12 heads"):
        found.shift(13, 1.0)
