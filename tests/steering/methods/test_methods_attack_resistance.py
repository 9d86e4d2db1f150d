"""Attacks by activations, and whether a model comes back from steering: planted thresholds and detectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import small
import torch
import toys

from interp import Task, steering
from interp.models import logits
from interp.models.handmade.sketch import Sketch
from interp.steering import Direction, methods
from interp.steering.methods._attack import _t_max


@pytest.fixture(scope="module")
def net():
    return small.model()


def test_more_positions_dictate_more_tokens_and_random_ones_none(net):
    prompt = torch.randint(3, 30, (1, 5), generator=torch.Generator().manual_seed(2))
    before = {name: p.clone() for name, p in net.named_parameters()}
    options = {"n_targets": 3, "steps": 40, "progress": False}
    out = methods.attack_scaling(net, prompt, [1, 4], [1, 8], **options)
    success = out["success"].mean("target")
    assert float(success.sel(positions=4, length=1)) == 1.0
    assert float(success.sel(positions=4, length=8)) > float(success.sel(positions=1, length=8))
    assert float(success.sel(positions=1, length=1)) > float(success.sel(positions=1, length=8))
    assert float(out["random"].mean()) < 0.3
    assert (out["norm"] > 0).all()
    t = out["t_max"].values
    a = np.array([1.0, 4.0])
    assert out.attrs["kappa"] == pytest.approx((a @ t) / (a @ a))
    d, vocab = net.cfg.d_model, net.cfg.d_vocab
    with np.errstate(divide="ignore"):  # infinite where nothing is dictated
        assert out["chi"].values == pytest.approx(a * d * 16 / (t * math.log2(vocab)))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    one = {**options, "steps": 5}
    again = [methods.attack_scaling(net, prompt, [1], [2], **one)["success"] for _ in range(2)]
    assert again[0].equals(again[1])
    for arguments, match in (
        ((prompt, [9], [1]), "the prompt has 5 tokens"),
        ((prompt, [1], [99]), "at most 16"),
        ((prompt.repeat(2, 1), [1], [1]), "2 prompts"),
        ((prompt, [0], [1]), "numbers of 1 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.attack_scaling(net, *arguments, **options)


def test_t_max_stops_at_the_first_length_that_fails():
    success = np.array([[1.0, 0.6, 0.4, 0.9], [0.2, 0.9, 0.9, 0.9], [1.0, 1.0, 1.0, 0.5]])
    assert _t_max(success, [1, 2, 4, 8]).tolist() == [2.0, 0.0, 8.0]


@pytest.mark.parametrize("rising", [True, False])
def test_the_root_of_a_coin_that_lands_by_a_planted_threshold(rising):
    misses = []
    for seed in range(8):
        rng = np.random.default_rng(seed)

        def share(x, rng=rng):
            p = 1 / (1 + np.exp(-4 * (x - 2.3)))
            return rng.binomial(10, p if rising else 1 - p) / 10

        root, (low, high) = methods.noisy_root(share, 0.5, 0.0, 5.0, n=80)
        assert low <= root <= high
        misses.append(abs(root - 2.3))
    assert np.median(misses) < 0.15
    assert max(misses) < 0.6
    for score, match in ((lambda x: 1.0, "is not between"), (lambda x: float("nan"), "the score is nan")):
        with pytest.raises(ValueError, match=match):
            methods.noisy_root(score, 0.5, 0.0, 5.0)


WORDS = ("on", "off", "go")


def corrector():
    """It says "on"; steered to say "off" it sees that it has, and a neuron puts "on" back. Another idles."""
    sketch = Sketch(WORDS, ("tok on", "tok off", "tok go", "out on", "out off"), n_ctx=12, n_layers=1)
    for word in WORDS:
        sketch.embed(word, f"tok {word}")
    sketch.unembed("out on", "on", 1.0)
    sketch.unembed("out off", "off", 1.0)
    sketch.neuron(0, reads={"tok off": 1.0}, writes={"out on": 9.0})
    sketch.neuron(0, reads={"tok go": 1.0}, writes={"out on": 1.0})
    sketch.neuron(0, reads={"tok on": 1.0}, writes={"out on": 1.0})
    model = toys.model(sketch)
    vector = torch.zeros(model.cfg.d_model).double()
    vector[sketch.features.index("out off")] = 4.0
    return model, Direction.from_tensor(vector, "resid_pre", 0), toys.ids(WORDS, sketch)


def test_a_planted_corrector_brings_the_text_back_and_without_it_nothing_does():
    model, d, (on, off, go) = corrector()
    prompts, find = torch.full((20, 1), go), methods.returns(back=[on], away=[off])
    out = methods.resistance(
        model, prompts, steering.add(d), find, max_new_tokens=4, progress=False,
        without=steering.edits.scale_units("L0.post", [0], 0.0),
        control=steering.edits.scale_units("L0.post", [1], 0.0),
    )  # fmt: skip
    rates = dict(zip(out["run"].values.tolist(), out["rate"].values))
    assert rates == {"base": 0.0, "steered": 1.0, "without": 0.0, "control": 1.0}
    assert (out["at"].sel(run="steered") == 1).all()  # "off", then "on"
    assert float(out["low"].sel(run="steered")) == pytest.approx(0.8316, abs=1e-4)  # 20 of 20
    assert float(out["high"].sel(run="without")) == pytest.approx(0.1684, abs=1e-4)
    unsteered = methods.resistance(
        model, prompts, steering.add(d, 0.0), find, max_new_tokens=4, progress=False
    )
    assert (unsteered["at"].sel(run="base").values == unsteered["at"].sel(run="steered").values).all()
    with pytest.raises(ValueError, match="the detector gave"):
        methods.resistance(model, prompts, steering.add(d), lambda t: t, max_new_tokens=4, progress=False)


def test_where_a_text_turns_back():
    find = methods.returns(back=[1, 7], away=[2, 3])
    tokens = torch.tensor([[2, 5, 7, 1], [1, 1, 1, 1], [5, 5, 3, 3], [1, 3, 1, 2]])
    assert find(tokens).tolist() == [2, -1, -1, 2]
    with pytest.raises(ValueError, match="away 0"):
        methods.returns(back=[1], away=[])


def test_one_coefficient_in_every_condition(net):
    ids = torch.randint(3, 30, (6, 5), generator=torch.Generator().manual_seed(8))
    task = Task.from_tokens(clean=ids.tolist(), corrupt=ids.flip(1).tolist(), answer=[4] * 6, wrong=[9] * 6)
    long = methods.prefixed(net, task, [11, 12, 13, 14, 15, 16], after=0)
    d = steering.mean_difference(net, ids[:3], ids[3:], layer=1)
    out = methods.under_shift(net, d, {"short": task, "long": long}, 2.0, progress=False)
    for name, each in (("short", task), ("long", long)):
        effect = methods.measure(net, each, steering.add(d, 2.0)) - methods.measure(net, each)
        torch.testing.assert_close(torch.tensor(out["value"].sel(condition=name).values), effect)
    assert (out["kl"] > 0).all()
    nothing = methods.under_shift(net, d, {"short": task}, 0.0, progress=False)
    assert abs(nothing["value"].values).max() < 1e-12
    with torch.no_grad():
        assert logits(net, long.clean).shape[1] == 11
    with pytest.raises(ValueError, match="the same prompts in each"):
        methods.under_shift(net, d, {"short": task, "long": task[:2]}, progress=False)
