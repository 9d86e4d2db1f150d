"""Class-specific neurons: planted ones are found, a shared one is not, and what is done to them."""

from __future__ import annotations

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.steering import methods
from interp.steering.methods._class_neurons import WEIGHTS

NAMES = ("feminine", "masculine", "neutral")


@pytest.fixture
def rows(draw):
    """Activations of 3 classes, 60 units: units 0-3, 4-7 and 8-11 are high on one class, 12 on two."""
    made = {name: draw(1000, 60) - 0.5 for name in NAMES}
    for number, name in enumerate(NAMES):
        made[name][:, 4 * number : 4 * number + 4] += 2.0
    made["feminine"][:, 12] += 2.0
    made["masculine"][:, 12] += 2.0
    return made


def test_the_parts_are_those_of_the_formulas(rows):
    found = methods.class_scores(rows)
    own = rows["masculine"]
    rest = torch.cat((rows["feminine"], rows["neutral"]))
    effect = (own.mean(0) - rest.mean(0)) / ((own.var(0, False) + rest.var(0, False)) / 2 + 1e-4).sqrt()
    rates = [(side > 0).double().mean(0) for side in (own, rest)]
    odds = [rate / (1 - rate) for rate in rates]
    relative = (own.mean(0) - rest.mean(0)) / (rest.mean(0).abs() + 1e-2)
    total = 0
    for weight, part, ours in zip(
        WEIGHTS,
        (effect, (odds[0] / odds[1]).log(), relative),
        (found.effect[1], found.log_odds[1], found.relative[1]),
    ):
        part = part.clamp(min=0)
        z = (part - part.mean()) / part.std()
        torch.testing.assert_close(ours, z)
        total = total + weight * z
    torch.testing.assert_close(found.score[1], total)
    torch.testing.assert_close(found.rate[1], rates[0])
    assert sum(WEIGHTS) == pytest.approx(1)


def test_exclusive_units_are_the_planted_ones_and_a_shared_one_is_left_out(rows):
    scores = methods.class_scores(rows)
    found = scores.exclusive(methods.Bounds())
    for number in range(3):
        assert found[number].nonzero().flatten().tolist() == list(range(4 * number, 4 * number + 4))
    assert scores.score[:2, 12].min() > 0.4  # it scores on both of its classes, so it is exclusive to neither


def test_scores_are_relative_so_some_units_pass_even_where_classes_are_drawn_by_lot(rows):
    every = torch.cat(list(rows.values()))[torch.randperm(3000, generator=torch.Generator().manual_seed(0))]
    null = methods.class_scores(dict(zip(NAMES, every.split(1000))))
    assert null.exclusive(methods.Bounds()).count_nonzero() > 5
    planted = methods.class_scores(rows)
    raw = [(own.mean(0) - every.mean(0)).abs().max() for own in (every[:1000], rows["feminine"])]
    assert raw[0] < 0.2 < 1.0 < raw[1]  # only the size of the effect tells the two apart
    assert planted.exclusive(methods.Bounds()).count_nonzero() == 12


@pytest.fixture
def classes():
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randint(3 + 9 * i, 12 + 9 * i, (20, 6), generator=generator)
        for i, name in enumerate(NAMES)
    }


def test_neurons_of_a_model_tell_the_classes_apart_and_random_ones_do_not(model, classes):
    loose = methods.Bounds(effect=0.3, log_odds=0.3, margin=0.1)
    found = methods.class_neurons(model, classes, 8, bounds=loose)
    assert all(0 < len(each) <= 8 for each in found.values())
    rows = {name: methods.neuron_activations(model, each, pos="all") for name, each in classes.items()}

    def gap(name, neurons):
        """Mean activation on the class - on the others, in units of the standard deviation."""
        others = torch.cat([rows[other] for other in NAMES if other != name])
        z = [
            (rows[name][:, layer, i].mean() - others[:, layer, i].mean()) / others[:, layer, i].std()
            for layer, i in neurons.ranked
        ]
        return torch.stack(z)

    for name in NAMES:
        ours, theirs = gap(name, found[name]), gap(name, found[name].random(seed=1))
        assert ours.min() > 0.1
        assert ours.mean() > theirs.mean() + 0.4
        assert all(found[name].overlap(found[other]) == 0 for other in NAMES if other != name)
        assert found[name].overlap(found[name]) == 1


def test_at_most_so_many_of_a_layer(model, classes):
    loose = methods.Bounds(effect=0.0, log_odds=0.0, margin=0.0, per_layer=2)
    found = methods.class_neurons(model, classes, 5, bounds=loose)
    for each in found.values():
        assert len(each) == 5
        assert max(len(index) for index in each.by_layer.values()) == 2


def test_masking_and_boosting_scale_the_neurons_and_nothing_else(model, ids):
    neurons = methods.Neurons(((1, 7), (2, 3), (1, 30)), (0, 1, 2), 40)
    assert neurons.names == ("L1N7", "L2N3", "L1N30")
    assert neurons.by_layer == {1: [7, 30], 2: [3]}
    assert neurons.first(1).names == ("L1N7",)
    seen = []
    keep = [("blocks.1.mlp.hook_post", lambda tensor, hook: seen.append(tensor.clone()))]
    for made in ((), neurons.scale(0.25), neurons.fix(2.0)):
        with torch.no_grad(), steering.steer(model, *made), model.hooks(fwd_hooks=keep):
            logits(model, ids)
    rest = torch.ones(40, dtype=torch.bool)
    rest[[7, 30]] = False
    assert torch.equal(seen[1][..., [7, 30]], 0.25 * seen[0][..., [7, 30]])
    assert (seen[2][..., [7, 30]] == 2.0).all()
    assert torch.equal(seen[1][..., rest], seen[0][..., rest])
    control = neurons.random(seed=3)
    assert {layer: len(index) for layer, index in control.by_layer.items()} == {1: 2, 2: 1}
    assert control.overlap(neurons) == 0
    assert control.ranked == neurons.random(seed=3).ranked != neurons.random(seed=4).ranked


def test_the_largest_activation_over_tokens_does_not_see_padding(model, ids):
    padded = [row[:length] for row, length in zip(ids.tolist(), (6, 3, 5, 1))]
    found = methods.neuron_activations(model, padded, pos="max")
    for row, tokens in enumerate(padded):
        alone = methods.neuron_activations(model, torch.tensor([tokens]), pos="all").amax(0)
        torch.testing.assert_close(found[row], alone)


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    neurons = methods.Neurons(((0, 1),), (0,), 40)
    many = methods.Neurons(tuple((0, i) for i in range(30)), (0,), 40)
    try:
        for call, match in (
            (lambda: methods.class_neurons(model, {"a": ids}, 3), "got 1 classes"),
            (lambda: methods.class_neurons(model, {"a": ids, "b": ids}, 0), "n = 0"),
            (lambda: methods.class_neurons(model, {"a": ids, "b": []}, 3), "class 'b': got no prompts"),
            (lambda: methods.class_neurons(model, {"a": ids, "b": ids}, 3, layer=4), "out of range"),
            (lambda: methods.class_scores({"a": torch.zeros(3, 2)}), "two classes or more"),
            (
                lambda: methods.class_scores({"a": torch.zeros(3, 2), "b": torch.zeros(0, 2)}),
                "'b' has no rows",
            ),
            (lambda: methods.top_neurons(torch.zeros(2, 3), 7, (0, 1)), "n is 7; there are 6"),
            (lambda: neurons.first(2), "n is 2; there are 1"),
            (lambda: many.random(), "too few to draw a control"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
