"""Bad input is a ValueError before the first pass, and a model is never left steered."""

from __future__ import annotations

import pytest
import torch

import interp
from interp import positions, steering
from interp.steering import Direction


@pytest.fixture
def silent(model):
    """The model, with a hook that fails the test if a pass is started."""

    def fail(tensor, hook):
        raise AssertionError("a forward pass was started")

    model.add_hook("hook_embed", fail)
    yield model
    model.reset_hooks()


def steered(model, made):
    with steering.steer(model, made):
        model(torch.zeros(1, 3, dtype=torch.long))


def test_a_word_outside_the_vocabulary_names_its_neighbours() -> None:
    world = interp.load("tiny-world")
    with pytest.raises(ValueError, match=r"prompt 1, prompts: 'smesh' is not in the vocabulary .* 'smash'"):
        steering.generate(world, ["how do I smash", "how do I smesh"], max_new_tokens=1)


def test_extraction(silent, ids):
    one = steering.mean_difference
    for call, match in (
        (lambda m: steering.pca(m, ids[:3], ids[3:], layer=1), "3 positive and 1 negative"),
        (lambda m: one(m, [], ids, layer=1), "positive: got no prompts"),
        (lambda m: one(m, ids[:0], ids, layer=1), "there are 0 prompts"),
        (lambda m: one(m, ids, ids, layer=7), "layer 7 is out of range"),
        (lambda m: one(m, ids, ids, layer=1, site="resid"), "unknown site"),
        (lambda m: one(m, ids, ids, layer=1, pos=6), "position 6 is outside prompt 0, which has 6 tokens"),
        (lambda m: one(m, ids, ids, layer=1, pos=(4, 9)), "outside, prompt 0"),
        (lambda m: one(m, ids, ids, layer=1, pos="first"), "pos is 'first'"),
        (lambda m: one(m, ids, ids + 30, layer=1), "outside the vocabulary of 30"),
        (lambda m: one(m, ids.repeat(1, 3), ids, layer=1), "18 tokens, the model's context is 16"),
        (lambda m: steering.activations(m, ids, "L1.resid_pre@2"), "names a position"),
        (lambda m: steering.activations(m, ids, "L1.resid_pre", mask=ids[:, :2] > 0), "mask has shape"),
        (lambda m: steering.extract.class_means(m, {"a": ids}, layer=1), "two classes or more"),
        (lambda m: steering.extract.class_means(m, {"a": ids, "b": ids}, layer=1, pos=40), "position 40"),
        (lambda m: steering.methods.prompt_pair(m, ids, ids, layer=1), "compares two prompts"),
    ):
        with pytest.raises(ValueError, match=match):
            call(silent)


def test_steering(silent, draw):
    good = Direction.from_tensor(draw(24), "L1.resid_pre")
    other = Direction.from_tensor(draw(24), "L1.resid_pre", model="another")
    for make, match in (
        (lambda: steering.add(Direction.from_tensor(draw(25), "L1.resid_pre")), "has width 25"),
        (lambda: steering.add(Direction.from_tensor(draw(24), "L1H2")), "has width 24, 'L1H2' has 6"),
        (lambda: steering.add(other), "found on model 'another'"),
        (lambda: steering.add(Direction.from_tensor(draw(24), "L5.resid_pre")), "out of range"),
        (lambda: steering.add(good, float("nan")), "coefficient is nan"),
        (lambda: steering.add(good, torch.tensor([1.0, float("inf")])), "must be finite"),
        (lambda: steering.add(good, 1.0, unit="norm"), "has no norm"),
        (lambda: steering.edits.scale_units("L1.post", [40], 0.0), "units 0 to 39"),
        (lambda: steering.edits.scale_units("L1.z", [4], 0.0), "heads 0 to 3"),
        (lambda: steering.edits.scale_units("L1.resid_pre", [4], 0.0), "has no units"),
        (lambda: steering.edits.score_bias(1, positions.at(0), -1.0), "0 or more"),
        (lambda: steering.rotate(good, 2 * good, 1.0), "parallel"),
        (lambda: steering.edits.inject(good), "Use add"),
        (lambda: "add", "expected an intervention, got str"),
        (lambda: Direction.from_tensor(draw(24) * float("nan"), "L1.resid_pre"), "not finite"),
        (lambda: Direction.from_tensor(draw(24) * 0, "L1.resid_pre"), "is all 0"),
        (lambda: Direction({good.place: draw(24) * 0}).unit(), "is 0"),
        (
            lambda: steering.ablate(Direction({good.place: draw(2, 24) * torch.eye(2)[:, :1]}, "basis")),
            "to ablate",
        ),
        (lambda: positions.at(), "at least one position"),
        (lambda: positions.window(3, 3), "is empty"),
        (lambda: positions.mask(torch.ones(1, 2, 3) > 0), "needs a bool tensor"),
    ):
        with pytest.raises(ValueError, match=match):
            steered(silent, make())


def test_generation_and_sweeps(silent, ids, draw):
    d = Direction.from_tensor(draw(24), "L1.resid_pre")
    generate = steering.generate
    for call, match in (
        (lambda m: generate(m, ids, steering.add(d, when=positions.at(-7)), max_new_tokens=3), "position -7"),
        (
            lambda m: generate(m, ids, steering.add(d, when=positions.at(9)), max_new_tokens=3),
            "beyond the 9 tokens",
        ),
        (lambda m: generate(m, ids, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda m: generate(m, ids, temperature=-1.0, max_new_tokens=3), "temperature"),
        (lambda m: generate(m, ids, mask=torch.tensor([[1, 0, 1, 1, 1, 1]] * 4).bool()), "gap"),
        (lambda m: steering.sweep(m, d, ids, []), "coefficients is empty"),
        (lambda m: steering.sweep(m, d, ids, [float("inf")]), "must be finite"),
        (lambda m: steering.sweep(m, [d, d], ids, [1.0]), "one for each layer"),
        (
            lambda m: steering.sweep(m, d, ids, [1.0], metric=interp.tasks.LogitDiff()),
            "needs answer=",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call(silent)


def test_a_prompt_whose_length_is_not_known(model, ids, draw):
    """Going on from a cache that was filled outside: the prompt's end cannot be known."""
    from interp.steering._generate import Decoder

    made = steering.add(Direction.from_tensor(draw(24), "L1.resid_pre"), when=positions.generated)
    with torch.no_grad():
        decoder = Decoder(model, ids, torch.ones_like(ids, dtype=torch.bool), True)
        decoder.append(decoder.logits().argmax(-1))
        if decoder.cache is None:
            pytest.skip("these releases hand on no cache: every token runs the whole text")
        with pytest.raises(ValueError, match="prompt's length is not known"), steering.steer(model, made):
            decoder.logits()
