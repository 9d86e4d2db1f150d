"""The moral direction: the first principal component of phrases."""

from __future__ import annotations

import architectures
import pytest
import torch
import two_sides as sides
from scipy.stats import spearmanr

import interp
from interp import steering, tasks
from interp.steering import methods


@pytest.fixture(scope="module")
def rated():
    """A model whose token i has a rating: its embedding is noise and rating · u."""
    model = architectures.build({"d_vocab": 200})
    generator = torch.Generator().manual_seed(3)
    u = torch.nn.functional.normalize(torch.randn(24, generator=generator, dtype=torch.float64), dim=0)
    ratings = torch.linspace(-2, 2, 200, dtype=torch.float64)[torch.randperm(200, generator=generator)]
    with torch.no_grad():
        noise = 0.2 * torch.randn(200, 24, generator=generator, dtype=torch.float64)
        model.embed.W_E.copy_(noise + ratings[:, None] * u)
    return model, u, ratings


def test_the_planted_axis_is_found_and_ranks_phrases_that_were_left_out(rated):
    model, u, ratings = rated
    good, bad = (ratings[:80] > 0).nonzero(), (ratings[:80] < 0).nonzero()
    found = methods.moral_direction(model, good, bad, layer=0, pos="last")
    assert torch.nn.functional.cosine_similarity(found.direction.vector, u, dim=0) > 0.98
    left_out = torch.arange(80, 200)
    score = found.score(model, left_out[:, None])
    assert spearmanr(score.numpy(), ratings[80:].numpy()).statistic > 0.95
    assert found.explained[0] > 0.5
    phrases = left_out.view(30, 4)  # several tokens: their mean
    rating = ratings[phrases].mean(1)
    good, bad = (phrases[:20][side] for side in (rating[:20] > 0, rating[:20] < 0))
    mean = methods.moral_direction(model, good, bad, layer=0)
    assert spearmanr(mean.score(model, phrases[20:]).numpy(), rating[20:].numpy()).statistic > 0.9


def test_it_is_the_leading_axis_of_the_covariance_and_the_labels_give_its_sign(toy, ids):
    found = methods.moral_direction(toy, ids[:2], ids[2:], layer=2)
    rows = steering.activations(toy, ids, "L2.resid_pre", "mean").double()
    variances, axes = torch.linalg.eigh(torch.cov(rows.T))
    torch.testing.assert_close(found.explained[0], variances[-1] / variances.sum(), rtol=1e-4, atol=0)
    assert abs(found.direction.vector @ axes[:, -1]) == pytest.approx(1, abs=1e-5)
    score = found.score(toy, ids)
    assert score.mean().item() == pytest.approx(0, abs=1e-5)
    assert score[:2].mean() > score[2:].mean()
    turned = methods.moral_direction(toy, ids[2:], ids[:2], layer=2).score(toy, ids)
    torch.testing.assert_close(turned, -score, rtol=0, atol=1e-5)


def test_held_out_requests_are_on_their_side_where_the_model_has_decided():
    """At the last token layer 3 knows what will be refused: the axis separates. In layer 1 not yet."""
    world = interp.load("tiny-world")
    harmful, harmless = sides.sides(world, tasks.requests(world, n=96, seed=0, held_out=False), "sorry")
    test = sides.sides(world, tasks.requests(world, n=48, seed=1), "sorry")
    area = {}
    for layer in (1, 3):
        found = methods.moral_direction(world, harmless, harmful, layer=layer, pos="last")
        bad, good = (found.score(world, each) for each in test)
        area[layer] = (good[:, None] > bad).double().mean().item()
    assert area[3] == 1
    assert area[1] < 0.75


def test_bad_input_before_any_pass(model, ids, draw):
    found = methods.moral_direction(model, ids[:2], ids[2:], layer=1)
    other = methods.MoralDirection(
        steering.Direction.from_tensor(draw(24), "L1.resid_pre", model="another"),
        found.centre, found.explained, "mean",
    )  # fmt: skip
    make = methods.moral_direction
    sides.refused(
        model,
        [
            (lambda: make(model, [], ids, layer=1), "dos: got no prompts"),
            (lambda: make(model, ids[:1], ids[1:2], layer=1), "three phrases or more"),
            (lambda: make(model, ids, ids, layer=1, pos="all"), "one embedding"),
            (lambda: make(model, ids, ids[:, :4], layer=1, pos=5), "position 5 is outside prompt 0"),
            (lambda: make(model, ids, ids, layer=3), "layer 3 is out of range"),
            (lambda: other.score(model, ids), "found on model 'another'"),
        ],
    )
    with pytest.raises(ValueError, match="same activations at L0"):
        make(model, ids[:1], ids[:1].repeat(2, 1), layer=0)
