"""Bias mitigation: a probe at every layer, then the direction of the best one."""

from __future__ import annotations

import architectures
import pytest
import torch
import two_sides as sides

import interp
from interp import positions, steering, tasks
from interp.steering import methods
from interp.tasks import Prob, vocabulary


def marked(n, seed=1):
    """Random prompts of 6 tokens, twice: with token 3 and with token 4 at position 2."""
    tokens = torch.randint(5, 10, (n, 6), generator=torch.Generator().manual_seed(seed))
    up, down = tokens.clone(), tokens.clone()
    up[:, 2], down[:, 2] = 3, 4
    return up, down


def test_accuracy_rises_at_the_layer_where_the_difference_arrives():
    """Only block 1 moves anything to the last token: before it pairs are equal there, and chance is exact."""
    model = architectures.build({})
    with torch.no_grad():
        model.blocks[1].attn.W_Q.zero_()  # the same attention whatever the tokens
        model.blocks[1].attn.b_Q.zero_()
        for layer in (0, 2):
            model.blocks[layer].attn.W_V.zero_()
    up, down = marked(40)
    found = methods.probe_sweep(model, up, down)
    assert found["accuracy"].values[:2].tolist() == [[0.5] * 4] * 2
    assert found["accuracy"].values[2].mean() > 0.9
    assert abs(found["shuffled"].values.mean() - 0.5) < 0.12
    d, probes = methods.bias_direction(model, up, down)
    assert d.layer == 2
    torch.testing.assert_close(d.vector, steering.mean_difference(model, up, down, layer=2).vector)
    assert probes.equals(found)
    with pytest.raises(ValueError, match=r"same activations at L0\.resid_pre"):  # equally good: the first
        methods.bias_direction(model, up, down, layer=[0, 1])


def test_a_prompt_that_stands_several_times_is_never_tested_on_itself(model, draw):
    """Random labels of ten prompts each, four times over: what is remembered must not count."""
    accuracy = []
    for seed in range(6):
        prompts = torch.randint(3, 30, (20, 6), generator=torch.Generator().manual_seed(seed))
        up, down = prompts[:10].repeat(4, 1), prompts[10:].repeat(4, 1)[:39]
        accuracy.append(methods.probe_sweep(model, up, down, layer=2, seed=seed)["accuracy"].mean().item())
    assert sum(accuracy) / 6 < 0.65
    rows = [steering.activations(model, each, "L2.resid_pre") for each in (up[:10], down[:10])]
    w, b = steering.estimators.logistic_probe(*rows)
    assert (rows[0] @ w + b > 0).all()  # the same rows, tested on themselves, give 1
    assert (rows[1] @ w + b < 0).all()


def test_the_direction_turns_gendered_pronouns_neutral():
    """Read and subtracted at the name: `they` follows feminine names that were held out with this wording.

    Measured: its probability goes from 0.000 to 0.977, and stays below 0.02 with both controls.
    """
    world = interp.load("tiny-world")
    train = tasks.pronouns(world, n=200, seed=0, held_out=False)
    test = tasks.pronouns(world, n=200, seed=1)
    feminine, neutral = groups(world, train, "she her herself"), groups(world, train, "they their themself")
    d, probes = methods.bias_direction(world, feminine, neutral, pos=1, folds=3)
    assert d.layer == 0  # the name itself: every layer reads it, and the first is taken
    assert float(probes["accuracy"].min()) == 1
    assert abs(float(probes["shuffled"].mean()) - 0.5) < 0.15
    task = groups(world, test, "she her herself")
    task = task[[i for i, w in enumerate(task.wrongs[:, 0]) if w in ids(world, "they their themself")]]
    found = steering.sweep(
        world, d, sides.exchanged(task), [-1.0, 0.0, 1.0], metric=Prob(), when=positions.at(1)
    ).mean("prompt")
    assert len(task) > 20
    assert found["raw"].values[0, 0] > 0.9
    assert found["raw"].values[0, 1:].max() < 0.01
    assert max((found["clean"] + found[name]).values.max() for name in ("random", "shuffled")) < 0.1


def ids(world, words):
    return [vocabulary.continuation(world, f" {word}") for word in words.split()]


def groups(world, task, words):
    return task[[i for i, answer in enumerate(task.answers[:, 0]) if answer in ids(world, words)]]


def test_bad_input_before_any_pass(model, ids):
    few = ids[:1].repeat(4, 1)
    sweep = methods.probe_sweep
    sides.refused(
        model,
        [
            (lambda: sweep(model, ids, few), "positive class has 1 distinct prompts for 4 folds"),
            (lambda: sweep(model, ids, ids, folds=1), "folds is 1"),
            (lambda: sweep(model, ids, ids, folds=5), "positive class has 4 distinct prompts for 5 folds"),
            (lambda: sweep(model, ids, ids, pos="all"), "one row a prompt"),
            (lambda: sweep(model, ids, ids[:, :4], pos=5), "position 5 is outside prompt 0"),
            (lambda: sweep(model, ids, []), "negative: got no prompts"),
            (lambda: methods.bias_direction(model, ids, ids, layer=9), "layer 9 is out of range"),
        ],
    )


@pytest.mark.parametrize("site", ["attn_out", "z"])
def test_other_sites(model, site):
    up, down = marked(12)
    found = methods.probe_sweep(model, up, down, site=site, folds=3)
    assert found["accuracy"].shape == (3, 3)
    assert found["accuracy"].values.max() > 0.6
