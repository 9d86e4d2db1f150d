"""What two models share and lend each other: shared neurons, and RAST's logits."""

from __future__ import annotations

import math

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import steering
from interp.models import logits
from interp.steering import methods


def test_planted_shared_neurons_stand_above_chance_and_random_ones_do_not(draw):
    first, second = draw(3, 400), draw(3, 400)
    planted = torch.arange(7)
    first[1, planted] += 9
    second[1, planted] += 9
    found, neurons = methods.shared_neurons(first, second, 10)
    assert float(found["value"][1]) >= 0.7
    assert float(found["p"][1]) < 1e-9
    assert float(found["value"][0]) <= 0.2
    assert float(found["p"][[0, 2]].min()) > 0.01
    assert {(1, int(each)) for each in planted} <= set(neurons.ranked)
    assert found.attrs["chance"] == 10 / 400
    assert len(neurons.random(0)) == len(neurons)
    same, every = methods.shared_neurons(first, first, 10)
    assert same["value"].values.tolist() == same["jaccard"].values.tolist() == [1, 1, 1]
    assert len(every) == 30
    assert every.ranked[0] in {(layer, int(row.argmax())) for layer, row in enumerate(first)}


def test_chance_is_k_over_d_and_its_tail_a_probability():
    generator = torch.Generator().manual_seed(2)
    shares, tails = [], []
    for _ in range(200):
        scores = torch.randn(2, 1, 40, generator=generator)
        found, _ = methods.shared_neurons(scores[0], scores[1], 8)
        shares.append(float(found["value"][0]))
        tails.append(float(found["p"][0]))
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
    assert np.mean([p <= 0.05 for p in tails]) <= 0.05 + 3 * math.sqrt(0.05 / 200)


def test_amplifying_what_is_shared_changes_more_than_a_random_set():
    model = interp.load("tiny-world")
    task = interp.tasks.requests(model, 32, seed=0)
    refuse, answer = (
        task[(task.answers == model.to_single_token("sorry")).any(1) == side] for side in (True, False)
    )
    scores = [
        (
            methods.neuron_activations(model, up).mean(0) - methods.neuron_activations(model, down).mean(0)
        ).abs()
        for up, down in ((refuse[:8], answer[:8]), (refuse[8:], answer[8:]))
    ]
    found, neurons = methods.shared_neurons(*scores, 20)
    assert float(found["value"].mean()) > 5 * found.attrs["chance"]
    base = methods.measure(model, refuse)
    ours, random = (
        methods.measure(model, refuse, each.scale(0.0)) - base for each in (neurons, neurons.random(0))
    )
    assert ours.mean().abs() > 3 * random.mean().abs()


@pytest.fixture(scope="module")
def three():
    """Three models of one vocabulary."""
    if architectures.has_hooked_transformer():
        big, little, tuned = (architectures.build({}) for _ in range(3))
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for value in (*little.parameters(), *tuned.parameters()):
                value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype))
    else:
        big, little, tuned = (small.bridge(family) for family in ("gpt2", "llama", "neox"))
    return big, little, tuned


def test_rast_is_the_sum_of_logits_at_every_step(three, ids):
    big, little, tuned = three
    with torch.no_grad():
        text = ids.clone()
        for _ in range(4):
            at = [logits(each, text)[:, -1] for each in three]
            mixed = at[0] + 1.5 * (at[2] - at[1])
            text = torch.cat([text, mixed.argmax(-1)[:, None]], 1)
    got = methods.rast(big, little, tuned, ids, 1.5, max_new_tokens=4, stop=())
    assert torch.equal(got, text)
    assert not torch.equal(got, steering.generate(big, ids, max_new_tokens=4, stop=()))


def test_strength_nought_is_the_big_model_and_tuning_that_did_nothing_adds_nothing(three, ids):
    big, little, _ = three
    plain = steering.generate(big, ids, max_new_tokens=5)
    assert torch.equal(methods.rast(big, little, big, ids, 0, max_new_tokens=5), plain)
    assert torch.equal(methods.rast(big, little, little, ids, 3.0, max_new_tokens=5), plain)
    ragged = [ids[0, :4].tolist(), ids[1].tolist()]
    assert torch.equal(
        methods.rast(big, little, big, ragged, 0, max_new_tokens=3),
        steering.generate(big, ragged, max_new_tokens=3),
    )


def test_rows_padded_on_the_left_stay_so(three, ids):
    big, little, tuned = three
    padded = torch.nn.functional.pad(ids, (2, 0), value=0)
    mask = torch.ones_like(padded)
    mask[:, :2] = 0
    plain = steering.generate(big, padded, mask=mask, max_new_tokens=3, stop=())
    assert torch.equal(
        methods.rast(big, little, tuned, padded, 0, mask=mask, max_new_tokens=3, stop=()), plain
    )
    mixed = methods.rast(big, little, tuned, padded, 1.5, mask=mask, max_new_tokens=3, stop=())
    alone = methods.rast(big, little, tuned, ids, 1.5, max_new_tokens=3, stop=())
    assert torch.equal(mixed[:, 2:], alone)


def test_rast_refuses_two_vocabularies_before_any_pass(three, ids):
    big, little, _ = three
    with pytest.raises(ValueError, match="has a vocabulary of 30 tokens and tiny-ioi one of"):
        methods.rast(big, interp.load("tiny-ioi"), little, ids)
    with pytest.raises(ValueError, match="strength is nan"):
        methods.rast(big, little, little, ids, float("nan"))
    with pytest.raises(ValueError, match="20 new ones need a context of 25"):
        methods.rast(big, little, little, ids, max_new_tokens=20)


def test_bad_scores_are_refused(draw):
    scores = draw(2, 9)
    for call, match in (
        (lambda: methods.shared_neurons(scores, scores[:1], 2), r"\[2, 9\] and \[1, 9\]"),
        (lambda: methods.shared_neurons(scores, scores, 10), "k is 10"),
        (lambda: methods.shared_neurons(scores, scores * float("nan"), 2), "not finite"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
