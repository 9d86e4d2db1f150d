"""The layer to steer: by the divergence of logit lenses, by probes, by the effect at equal KL."""

from __future__ import annotations

import math

import architectures
import numpy as np
import pytest
import torch
import two_sides as sides
from scipy.spatial.distance import jensenshannon

import interp
from interp import steering, tasks
from interp.models import logits
from interp.steering import methods
from interp.tasks import Task


def test_after_the_last_block_it_is_the_divergence_of_the_models_own_outputs(toy, ids):
    found = methods.lens_divergence(toy, ids[:2], ids[2:], site="resid_post")
    with torch.no_grad():
        p, q = (logits(toy, rows)[:, -1].double().softmax(-1).numpy() for rows in (ids[:2], ids[2:]))
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p, q)]  # scipy gives the square root, in nats
    np.testing.assert_allclose(found["value"].values[:, -1], expected, rtol=1e-4, atol=1e-7)
    assert min(expected) > 1e-3


def test_it_is_symmetric_between_nothing_and_log_two(model, ids):
    there, back = (
        methods.lens_divergence(model, *pair)["value"] for pair in ((ids, ids.flip(0)), (ids.flip(0), ids))
    )
    np.testing.assert_allclose(there, back, atol=1e-12)
    assert there.values.max() > 1e-2
    assert there.values.max() <= math.log(2)
    assert methods.lens_divergence(model, ids, ids)["value"].values.max() < 1e-12


@pytest.mark.parametrize("planted", [1, 2])
def test_the_layer_of_a_planted_difference_is_chosen(planted):
    """One block brings the difference to the last token; every later one buries it under a constant."""
    model = architectures.build({"n_layers": 4})
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            block.mlp.W_out.zero_()
            if layer != planted:
                block.attn.W_V.zero_()
            if layer > planted:
                block.mlp.b_out.mul_(100)
    tokens = torch.randint(5, 30, (20, 6), generator=torch.Generator().manual_seed(1))
    up, down = tokens.clone(), tokens.clone()
    up[:, 2], down[:, 2] = 3, 4
    value = methods.lens_divergence(model, up, down, site="resid_post")["value"].mean("prompt")
    assert value[:planted].max() < 1e-12
    assert value[planted] > 2 * value[planted + 1 :].max()
    assert methods.select_layer(model, up, down, site="resid_post") == planted
    assert methods.select_layer(model, up, down, "probe", site="resid_post") == planted


@pytest.fixture(scope="module")
def reviews():
    """tiny-world, reviews with praise, the same with blame, and held-out reviews to be turned to praise."""
    world = interp.load("tiny-world")
    up = sides.sides(world, tasks.sentiment(world, n=48, seed=0, held_out=False), "wonderful")[0]
    test = sides.sides(world, tasks.sentiment(world, n=16, seed=1), "terrible")[0]
    return world, up, up.swap(), sides.exchanged(test)


def test_effects_are_at_equal_kl_and_nothing_where_the_direction_is_nothing(reviews):
    """At layer 0 the last token of both reviews is the same: there is no direction."""
    world, up, down, task = reviews
    d = methods.caa(world, up, down, layer=[0, 2, 3])
    found = methods.layer_effects(world, d, task, 0.2)
    assert np.isnan(found["value"].values[:, 0]).all()
    for i, layer in enumerate([2, 3], 1):
        c = float(found["coefficient"][i])
        again = steering.sweep(world, d.at(f"L{layer}.resid_pre"), task, [c], with_controls=False)
        assert float(again["raw"].sel(metric="kl").mean()) == pytest.approx(0.2, rel=0.02)
        change = again["value"].sel(metric="logit_diff")
        np.testing.assert_allclose(found["value"].values[:, i], change.values.ravel(), atol=1e-4)
    mean = found.mean("prompt")
    assert float(mean["value"][2]) > 4  # logits
    assert float(mean["value"][2]) > float(mean["random"][2]) + 2
    assert float(mean["value"][2]) > float(mean["shuffled"][2]) + 2


@pytest.mark.parametrize("by", ["jsd", "probe", "effect"])
def test_on_reviews_the_three_agree_on_the_last_layer(reviews, by):
    world, up, down, task = reviews
    assert methods.select_layer(world, up, down, by, layer=[1, 2, 3], task=task) == 3


def test_bad_input_before_any_pass(model, ids, draw):
    choose, lens = methods.select_layer, methods.lens_divergence
    other = steering.Direction.from_tensor(draw(24), "L1.resid_pre", model="another")
    task = Task.from_tokens(clean=ids, corrupt=ids.flip(0), answer=ids[:, 0], wrong=ids[:, 1])
    sides.refused(
        model,
        [
            (lambda: choose(model, ids, ids, "kl"), "by is 'kl'"),
            (lambda: choose(model, ids, ids, "effect"), "measures on a task"),
            (lambda: lens(model, ids[:3], ids[3:]), "3 positive and 1 negative"),
            (lambda: lens(model, ids, ids, site="z"), "logit lens reads one position of the stream"),
            (lambda: lens(model, ids, ids, pos="all"), "logit lens reads one position"),
            (lambda: lens(model, ids, ids[:, :4], pos=5), "position 5 is outside prompt 0"),
            (lambda: lens(model, ids, ids, layer=[0, 3]), "layer 3 is out of range"),
            (lambda: methods.layer_effects(model, other, task), "found on model 'another'"),
        ],
    )
