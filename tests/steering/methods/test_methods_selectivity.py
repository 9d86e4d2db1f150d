"""Selectivity: planted heads, the interval, and what may not be compared."""

from __future__ import annotations

import architectures
import handmade
import numpy as np
import pytest
import torch

import interp
from interp.steering import methods
from interp.tasks import Reading, Task


def sweep(effects, n, seed, noise=0.3):
    """A noising sweep over heads with planted mean effects [layer, head]."""
    made = handmade.make(n_prompts=n, seed=seed, sizes={"layer": 2, "head": 3}, direction="noise")
    drawn = np.random.default_rng(seed).normal(0, noise, (n, 2, 3))
    made["value"] = (made["value"].dims, effects + drawn)
    return made


def test_planted_parts_have_the_right_sign_and_the_others_none():
    recall, reasoning = np.zeros((2, 3)), np.zeros((2, 3))
    recall[0, 1] = recall[1, 0] = 1.0
    reasoning[1, 2] = reasoning[1, 0] = 1.0  # (1, 0) serves both
    found = methods.selectivity(sweep(recall, 40, 0), sweep(reasoning, 50, 1))
    assert found["value"].dims == ("layer", "head")
    np.testing.assert_allclose(found["value"], recall - reasoning, atol=0.2)
    planted = recall != reasoning
    assert (found["sure"].values[planted]).all()
    assert (np.sign(found["value"].values[planted]) == np.sign((recall - reasoning)[planted])).all()
    np.testing.assert_allclose(found["first"] - found["second"], found["value"])
    other = methods.selectivity(
        sweep(reasoning, 50, 1),
        sweep(recall, 40, 0),
    )
    np.testing.assert_allclose(other["value"], -found["value"])


def test_the_interval_covers_the_difference_of_two_means():
    hits, width, runs = 0, [], 60
    for seed in range(runs):
        pair = sweep(np.zeros((2, 3)) + 0.5, 30, 2 * seed), sweep(np.zeros((2, 3)), 20, 2 * seed + 1)
        found = methods.selectivity(*pair, n=200, seed=seed)
        hits += ((found["low"] < 0.5) & (found["high"] > 0.5)).values.sum()
        width.append((found["high"] - found["low"]).mean().item())
    assert 0.91 < hits / (6 * runs) < 0.985
    wanted = 2 * 2.02 * 0.3 * np.sqrt(1 / 30 + 1 / 20)  # Student's t with about 42 degrees of freedom
    assert np.mean(width) == pytest.approx(wanted, rel=0.1)


def test_accuracy_is_one_where_an_answer_has_the_largest_logit():
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    ids = torch.zeros(3, 1, dtype=torch.long)
    reading = Reading(logits, logits, torch.tensor([[1, -1], [0, 2], [2, 0]]), ids, ids, ids[:, 0])
    assert methods.Accuracy()(reading).tolist() == [1.0, 0.0, 1.0]


@pytest.fixture(scope="module")
def two_heads():
    """One layer of four heads: head 0 copies token 0 to the logits of a first task, head 2 of a second.

    A prompt is [fact, puzzle, question]; question 28 asks for the fact (10 to 14 -> the same), question 29
    for the puzzle (15 to 19).
    """
    shape = {"n_layers": 1, "d_model": 34, "d_head": 34, "normalization_type": None}
    model = architectures.build({**shape, "attn_only": True, "d_mlp": None, "act_fn": None})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, :30] = torch.eye(30)
        attn = model.blocks[0].attn
        for head, question, group in ((0, 28, slice(10, 15)), (2, 29, slice(15, 20))):
            attn.W_Q[head, question, 0] = 60.0  # the question looks for the tokens of its group
            attn.W_K[head, group, 0] = 20.0
            attn.W_V[head, group, group] = torch.eye(5).double()
            attn.W_O[head, group, group] = torch.eye(5).double()
        model.unembed.W_U[:30, :30] = torch.eye(30)
        model.unembed.W_U[28:30] = 0.0
    return model


def test_heads_of_two_abilities_in_a_model(two_heads):
    tasks = []
    generator = torch.Generator().manual_seed(0)
    for question, column in ((28, 0), (29, 1)):
        draws = [torch.randint(low, low + 5, (20,), generator=generator) for low in (10, 15)]
        clean = torch.stack((*draws, torch.full((20,), question)), 1)
        shift = torch.randint(1, 5, (20,), generator=generator)
        wrong = (clean[:, column] - (10, 15)[column] + shift) % 5 + (10, 15)[column]
        corrupt = clean.clone()
        corrupt[:, column] = wrong
        tasks.append(Task.from_tokens(clean=clean, corrupt=corrupt, answer=clean[:, column], wrong=wrong))
    results = [
        interp.patch(
            two_heads, task, "z", direction="noise", ablation="zero", metric=methods.Accuracy(),
            progress=False,
        )
        for task in tasks
    ]  # fmt: skip
    found = methods.selectivity(*results)
    assert found["value"].values.tolist() == [[1.0, 0.0, -1.0, 0.0]]
    assert found["sure"].values.tolist() == [[True, False, True, False]]
    assert found.attrs["metric"] == "accuracy"


def test_what_may_not_be_compared():
    one = sweep(np.zeros((2, 3)), 10, 0)
    for other, match in (
        (one.assign_attrs(direction="denoise"), "denoise sweep"),
        (one.assign_attrs(metric="prob"), "metric 'logit_diff' and 'prob'"),
        (one.assign_attrs(site="q"), "site 'z' and 'q'"),
        (one.isel(head=slice(2)), "different parts"),
        (one.assign_coords(head=[1, 2, 3]), "different parts"),
        (one.mean("prompt"), "no result by prompt"),
        (handmade.make(metrics=("kl", "prob"), direction="noise"), "several metrics"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.selectivity(one, other)
    normalised = methods.selectivity(one, one.assign_attrs(metric="prob"), statistic="normalised")
    assert normalised.attrs["statistic"] == "normalised"
