"""Integrated gradients: the rules, what they converge to, and the sum that published code takes."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from estimates import activation, model_of

from interp.attribution import attribute, gradients
from interp.methods import IG, RULES
from interp.tasks import KL, LogitDiff, LogProb


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one(rule):
    for steps in (1, 2, 7):
        alphas, weights = zip(*IG(steps, rule).points())
        assert len(alphas) == steps
        assert sum(weights) == pytest.approx(1, abs=1e-14)
        assert 0 <= min(alphas) <= max(alphas) < 1


def test_rules_integrate_polynomials():
    """Gauss with m points is exact to degree 2m - 1, the midpoint to 1, the left sum to 0."""

    def integral(rule, steps, power):
        return sum(weight * alpha**power for alpha, weight in IG(steps, rule).points())

    for power in range(8):
        assert integral("gauss", 4, power) == pytest.approx(1 / (power + 1), abs=1e-14)
    assert abs(integral("gauss", 4, 8) - 1 / 9) > 1e-6
    assert integral("midpoint", 4, 1) == pytest.approx(1 / 2)
    assert integral("midpoint", 4, 2) != pytest.approx(1 / 3)
    assert integral("left", 4, 1) == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("name", "direction"), [("LN-gelu_new-plain-serial-gqa-rotary", "denoise"), ("qk-norm", "noise")]
)
def test_the_first_cut_adds_up_to_the_gap(name, direction):
    """The embedding is what is moved in a straight line: there the estimates are complete."""
    options = {"method": IG(steps=64, rule="gauss"), "metric": [LogitDiff(), LogProb()]}
    found = attribute(model_of(name), task(), "resid_pre", direction=direction, **options, **QUIET)
    gap = found["clean"] - found["corrupt"]
    total = found["value"].sel(layer=0).sum("pos")
    np.testing.assert_allclose(total, gap, atol=1e-6)
    assert abs(gap).min() > 1e-3


def test_error_falls_as_the_rule_says(model):
    """Twice the points: half the error of the left sum, a quarter of the midpoint's."""

    def error(rule, steps):
        found = attribute(model, task(), "resid_pre", method=IG(steps, rule), **QUIET)
        total = found["value"].sel(layer=0).sum("pos")
        return abs(total - (found["clean"] - found["corrupt"])).values

    assert np.median(error("midpoint", 16) / error("midpoint", 32)) == pytest.approx(4, rel=0.25)
    assert np.median(error("left", 16) / error("left", 32)) == pytest.approx(2, rel=0.25)


def test_both_directions_agree(model):
    """The path is the same either way, so sufficiency and necessity are estimated alike."""
    values = [
        attribute(model, task(), "z", method="ig", direction=direction, **QUIET)["value"]
        for direction in ("denoise", "noise")
    ]
    np.testing.assert_allclose(*values, atol=1e-11)
    assert abs(values[0]).max() > 1e-2


def test_kl_has_an_estimate_in_the_noise_direction(model):
    """Its slope is 0 in the clean run, not along the path."""
    options = {"method": IG(48, "gauss"), "metric": KL(), "direction": "noise"}
    found = attribute(model, task(), "resid_pre", **options, **QUIET)
    total = found["value"].sel(layer=0).sum("pos")
    np.testing.assert_allclose(total, found["corrupt"] - found["clean"], atol=1e-6)
    assert (found["corrupt"] > 0.01).all()
    np.testing.assert_allclose(found["clean"], 0, atol=1e-12)


def test_left_is_the_sum_of_published_code(model):
    """EAP-IG: embeddings corrupt + k/m (clean - corrupt), k = 1 to m; activations corrupt - clean."""
    pairs, steps, name = task(), 3, "blocks.1.hook_mlp_out"
    rows = torch.arange(len(pairs))

    def metric(out):
        last = out[rows, pairs.positions]
        return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

    corrupt, clean = (activation(model, tokens, "hook_embed") for tokens in (pairs.corrupt, pairs.clean))
    delta = activation(model, pairs.corrupt, name) - activation(model, pairs.clean, name)
    score = torch.zeros(len(pairs), 9, dtype=delta.dtype)
    for k in range(1, steps + 1):
        between = corrupt + k / steps * (clean - corrupt)
        _, _, slopes = gradients(model, pairs.clean, [name], metric, embeddings=between)
        score += (delta * slopes[name]).sum(-1).detach() / steps
    ours = attribute(model, pairs, "mlp_out", method=IG(steps, "left"), direction="noise", **QUIET)[
        "value"
    ].sel(layer=1)
    np.testing.assert_allclose(ours, -score, atol=1e-12)
    assert abs(ours).max() > 1e-2


def test_one_midpoint_is_the_slope_half_way(model):
    """m = 1: one gradient, at the mean of both embeddings."""
    pairs, name = task(), "blocks.0.attn.hook_z"
    middle = (
        activation(model, pairs.clean, "hook_embed") + activation(model, pairs.corrupt, "hook_embed")
    ) / 2
    rows = torch.arange(len(pairs))

    def metric(out):
        last = out[rows, pairs.positions]
        return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

    _, _, slopes = gradients(model, pairs.clean, [name], metric, embeddings=middle)
    delta = activation(model, pairs.clean, name) - activation(model, pairs.corrupt, name)
    wanted = (delta * slopes[name]).sum((1, 3)).detach()
    ours = attribute(model, pairs, "z", method=IG(1), **QUIET)["value"].sel(layer=0)
    np.testing.assert_allclose(ours, wanted, atol=1e-12)
    assert abs(ours).max() > 1e-2
