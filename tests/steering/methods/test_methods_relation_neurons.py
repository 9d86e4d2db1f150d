"""Relation-specific neurons: average precision by hand, planted neurons, and what taking them out does."""

from __future__ import annotations

import architectures
import pytest
import torch

import interp
from interp import positions, steering
from interp.models import logits
from interp.steering import methods
from interp.tasks import KL, LogitDiff, LogProb, Task


def by_hand(positive, negative):
    """Area under the precision-recall steps, threshold by threshold from the top."""
    total, last = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        right = sum(x >= threshold for x in positive)
        wrong = sum(x >= threshold for x in negative)
        recall = right / len(positive)
        total += (recall - last) * right / (right + wrong)
        last = recall
    return total


def test_average_precision_is_that_of_the_definition_with_ties():
    generator = torch.Generator().manual_seed(0)
    up = torch.randint(0, 6, (9, 20), generator=generator).double()
    down = torch.randint(0, 5, (13, 20), generator=generator).double()
    found = methods.average_precision(up, down)
    wanted = [by_hand(up[:, unit].tolist(), down[:, unit].tolist()) for unit in range(20)]
    torch.testing.assert_close(found, torch.tensor(wanted).double())
    constant = methods.average_precision(torch.ones(3, 1), torch.ones(9, 1))
    assert constant.item() == pytest.approx(0.25)  # chance
    assert methods.average_precision(torch.ones(3, 1), torch.zeros(9, 1)).item() == 1.0


SUBJECTS = 8


@pytest.fixture(scope="module")
def world():
    """A model in which four neurons write the answer of each relation, and one stands in the other's way.

    A prompt is [subject, relation]; relation 28 has answer 1, relation 29 answer 2. Neurons 0-3 of layer 0
    read 28 and write 0.5 each to the logit of 1; neurons 4-7 read 29 and write to that of 2. Neuron 3 fires
    at 0.4 on relation 29 too, and takes 0.5 times its activation from the logit of 2.
    """
    model = architectures.build(
        {"n_layers": 1, "normalization_type": None, "act_fn": "relu", "d_model": 32, "d_head": 8}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.eye(30, 32))
        mlp = model.blocks[0].mlp
        mlp.W_in[28, :4], mlp.W_in[29, 4:8] = 1.0, 1.0
        mlp.W_out[:4, 30], mlp.W_out[4:8, 31] = 0.5, 0.5
        mlp.W_in[29, 3], mlp.W_out[3, 31] = 0.4, -0.5
        generator = torch.Generator().manual_seed(0)
        mlp.W_in[:, 8:] = torch.randn(32, 32, generator=generator).double()
        mlp.W_in[28:30, 8:] = 0.0  # the others read subjects and write nothing
        model.unembed.W_U[30, 1] = model.unembed.W_U[31, 2] = 1.0
    return model


@pytest.fixture(scope="module")
def tasks():
    def task(relation, answer, wrong):
        prompts = torch.tensor([[subject, relation] for subject in range(3, 3 + SUBJECTS)])
        return Task.from_tokens(
            clean=prompts, corrupt=None,
            answer=torch.full((SUBJECTS,), answer), wrong=torch.full((SUBJECTS,), wrong), metric=LogitDiff(),
        )  # fmt: skip

    return {"first": task(28, 1, 2), "second": task(29, 2, 1)}


@pytest.mark.parametrize("pos", ["last", "mean", "max"])
def test_the_planted_neurons_are_those_of_the_relations(world, tasks, pos):
    found = methods.relation_neurons(world, tasks, 4, pos=pos)
    for name, neurons in NEURONS.items():
        assert set(found[name].ranked) == set(neurons.ranked)
        assert found[name].overlap(neurons.random()) == 0


NEURONS = {
    "first": methods.Neurons(tuple((0, i) for i in range(4)), (0,), 40),
    "second": methods.Neurons(tuple((0, i) for i in range(4, 8)), (0,), 40),
}


def test_taking_out_a_relation_hurts_it_alone_and_helps_where_its_neurons_stood_in_the_way(world, tasks):
    found = methods.interference(world, tasks, NEURONS, metric=LogitDiff())
    value = found["value"]
    assert value.sel(deactivated="first", relation="first").item() == pytest.approx(2.5)
    assert value.sel(deactivated="second", relation="second").item() == pytest.approx(2.0)
    # neuron 3 writes 0.4 · 0.5 to answer 1 and as much away from answer 2: without it the second gains 0.4
    assert value.sel(deactivated="first", relation="second").item() == pytest.approx(-0.4)
    assert value.sel(deactivated="second", relation="first").item() == pytest.approx(0.0)
    assert found["clean"].values.tolist() == pytest.approx([2.0 + 0.5, 2.0 - 0.4])
    assert abs(found["random"]).max().item() < 1e-9  # the others write nothing


def test_the_curve_is_cumulative_and_random_neurons_do_nothing(world, tasks):
    found = methods.cumulativity(
        world, tasks["second"], NEURONS["second"], [0, 1, 2, 3, 4], metric=LogitDiff()
    )
    steps = found["value"].mean("prompt").values
    assert steps.tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
    assert found["value"].dims == ("prompt", "count")
    assert abs(found["random"]).max().item() < 1e-9
    probability = methods.cumulativity(world, tasks["second"], NEURONS["second"], [1, 2, 3, 4])["value"]
    assert (probability.mean("prompt").diff("count") > 0).all()
    turned = methods.cumulativity(world, tasks["second"], NEURONS["second"], [0, 4], metric=KL())["value"]
    assert turned.mean("prompt").values[1] > 0 == turned.mean("prompt").values[0]  # lower is better


def test_a_metric_under_interventions_is_that_of_each_prompt_alone(model, ids):
    """Also where prompts are padded and the intervention counts from the end of the prompt."""
    lengths = torch.tensor([6, 3, 5, 4])
    tokens = ids.masked_fill(torch.arange(6) >= lengths[:, None], 0)
    task = Task.from_tokens(
        clean=tokens, corrupt=None, answer=torch.arange(4), wrong=torch.arange(4, 8), lengths=lengths,
        positions=lengths - 1, metric=LogProb(),
    )  # fmt: skip
    made = methods.Neurons(((1, 3), (2, 8)), (1, 2), 40).scale(-4.0, when=positions.at(-1))
    wanted = []
    for row, length in enumerate(lengths.tolist()):
        with torch.no_grad(), steering.steer(model, *made):
            wanted.append(logits(model, ids[row : row + 1, :length])[0, -1].log_softmax(-1)[row])
    found = methods.measure(model, task, *made)
    torch.testing.assert_close(found, torch.stack(wanted))
    assert (found - methods.measure(model, task)).abs().max() > 1e-3


def test_relations_of_the_trained_world():
    """On tiny-world the neurons of one relation carry it: as many random ones do not."""
    world = interp.load("tiny-world")
    made = {name: interp.tasks.facts(world, 24, relation=name) for name in ("capital", "born", "country")}
    found = methods.relation_neurons(world, made, 40)
    table = methods.interference(world, made, found)
    own = [table["value"].sel(deactivated=name, relation=name).item() for name in made]
    control = [table["random"].sel(deactivated=name, relation=name).item() for name in made]
    assert sum(own) / 3 > sum(control) / 3 + 0.05


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    neurons = methods.Neurons(((0, 1),), (0,), 40)
    task = Task.from_tokens(clean=ids, corrupt=None, answer=ids[:, 0], wrong=ids[:, 1])
    try:
        for call, match in (
            (lambda: methods.relation_neurons(model, {"a": ids}, 3), "got 1 relations"),
            (lambda: methods.relation_neurons(model, {"a": ids, "b": ids}, 121), "1 <= n <= 120"),
            (lambda: methods.relation_neurons(model, {"a": ids, "b": []}, 3), "relation 'b': got no prompts"),
            (lambda: methods.relation_neurons(model, {"a": ids, "b": ids}, 3, layer=4), "out of range"),
            (lambda: methods.average_precision(torch.zeros(0, 2), torch.zeros(3, 2)), "0 and 3 rows"),
            (lambda: methods.cumulativity(model, task, neurons, [2]), "n is 2; there are 1"),
            (lambda: methods.measure(model, task, "scale"), "expected an intervention"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
