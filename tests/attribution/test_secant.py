"""Two-point slopes: exact between their points, complete at every cut, antisymmetric in the runs."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from cases import QUIET, task
from estimates import FEW, covering, linear_toy, model_of

import interp
from interp.attribution import attribute
from interp.attribution.secant import metric_path
from interp.attribution.secant._slopes import SoftmaxPath, chord, mean_jacobian, norm_change, plan
from interp.models import anatomy
from interp.models.parts import Norm
from interp.tasks import KL, LogitDiff, LogProb, Loss, Prob

CUTS = ("resid_pre", "resid_mid", "resid_post")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("f", [F.gelu, F.silu, F.relu, torch.tanh])
def test_chord_is_exact_between_its_points(f):
    x0, x1 = 3 * draw(500), 3 * draw(500, seed=1)
    slope = chord(f, x0, x1)
    np.testing.assert_allclose(slope * (x1 - x0), f(x1) - f(x0), atol=1e-13)
    torch.testing.assert_close(slope, chord(f, x1, x0), rtol=0, atol=0)
    assert slope.std() > 0.1


def test_chord_where_the_points_meet_is_the_derivative():
    x = draw(200)
    for gap in (0.0, 1e-13, -1e-9, 3e-8):
        assert (chord(F.silu, x, x + gap) - torch.func.vmap(torch.func.grad(F.silu))(x)).abs().max() < 1e-6
    assert chord(F.relu, torch.tensor([-1.0]), torch.tensor([3.0])).item() == 0.75


@pytest.mark.parametrize("centred", [True, False])
def test_norm_change_is_exact_between_its_points(centred):
    gain = 1 + 0.3 * draw(12, seed=2)
    norm = Norm(centred, 1e-5, gain, 0.1 * draw(12, seed=3) if centred else None)
    x0, x1 = draw(7, 12), 5 * draw(7, 12, seed=1) + 2
    slope, x = draw(7, 12, seed=4), x0.clone().requires_grad_(True)
    moved = norm_change(norm, x, x1)
    assert (moved == 0).all()
    (moved * slope).sum().backward()
    found, wanted = (x.grad * (x1 - x0)).sum(-1), ((norm(x1) - norm(x0)) * slope).sum(-1)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert wanted.abs().max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 20.0, 500.0])
def test_softmax_path_is_exact_however_saturated(scale):
    """A head that switches from one token to another passes through a narrow window of the path."""
    start, delta = scale * draw(50, 9), scale * draw(50, 9, seed=1)
    start[:20, 6:] = -torch.inf
    delta[:20, 6:] = 0.0
    panels, residual = plan(start, delta)
    exact = (start + delta).softmax(-1) - start.softmax(-1)
    assert residual <= 1e-10
    scores = torch.zeros_like(start, requires_grad=True)
    slope = draw(50, 9, seed=2)
    pattern = SoftmaxPath.apply(start.softmax(-1), scores, start, delta, panels)
    (pattern * slope).sum().backward()
    np.testing.assert_allclose((scores.grad * delta).sum(-1), (exact * slope).sum(-1), atol=1e-9)
    assert exact.abs().max() > 0.1
    one = (mean_jacobian(start, delta, delta, 1) - exact).abs().max()
    assert (scale > 1) == bool(one > 1e-3)  # a fixed rule of 8 points would not do


@pytest.mark.parametrize("cap", [-1.0, 3.0])
def test_metric_path_is_exact_for_any_smooth_metric(cap):
    inner = [2 * draw(4, 6), 2 * draw(4, 6, seed=1)]
    logits, other = (cap * torch.tanh(x / cap) if cap > 0 else x for x in inner)

    def measure(x):
        return torch.stack((x[:, 0] - x[:, 1], x.softmax(-1)[:, 2], x.log_softmax(-1)[:, 3]), -1)

    graph = inner[0].clone().requires_grad_(True)
    picked = cap * torch.tanh(graph / cap) if cap > 0 else graph
    values, residual = metric_path(measure, picked, other, cap)
    assert residual < 1e-8
    np.testing.assert_allclose(values.detach(), measure(logits), atol=1e-14)
    for number in range(3):
        (slope,) = torch.autograd.grad(values[:, number].sum(), graph, retain_graph=True)
        found = (slope * (inner[1] - inner[0])).sum(-1)
        np.testing.assert_allclose(found, (measure(other) - measure(logits))[:, number], atol=1e-8)


@pytest.mark.parametrize("name", covering(3))
def test_every_cut_adds_up_to_the_gap_and_exchange_negates(name):
    model = model_of(name)
    cuts = [site for site in CUTS if site in anatomy(model).sites()]
    found, other = (
        attribute(model, task(n=2), cuts, method="secant", direction=direction, **QUIET)
        for direction in ("denoise", "noise")
    )
    gap = found["clean"] - found["corrupt"]
    np.testing.assert_allclose(
        found["value"].sum("pos"), gap.broadcast_like(found["value"].sum("pos")), atol=1e-9
    )
    assert abs(gap).min() > 1e-3
    # noise is clean - patched, so that two negations cancel: sufficiency and necessity agree
    np.testing.assert_allclose(other["value"], found["value"], atol=1e-10)
    assert found.attrs["softmax_residual"] < 1e-10
    assert found.attrs["completeness"] < 1e-9


@pytest.mark.parametrize("family", small.FAMILIES)
def test_bridges_add_up(family):
    tolerance = 5e-6 if family == "llama" else 1e-9  # its norms compute in float32
    found = attribute(small.bridge(family), task(n=2), ["resid_pre", "resid_post"], method="secant", **QUIET)
    total = found["value"].sum("pos")
    np.testing.assert_allclose(
        total, (found["clean"] - found["corrupt"]).broadcast_like(total), atol=tolerance
    )
    assert abs(found["value"]).max() > 0.1


def test_every_metric_adds_up():
    metrics = [LogitDiff(), Prob(), LogProb(), KL(), Loss()]
    for name in ("LN-gelu_new-plain-serial-gqa-rotary", "soft-cap"):
        found = attribute(model_of(name), task(n=3), "resid_post", method="secant", metric=metrics, **QUIET)
        gap = found["clean"] - found["corrupt"]
        gap = gap * np.array([1, 1, 1, -1, -1])  # lower is better for the last two
        total = found["value"].sum("pos").transpose("prompt", "layer", "metric")
        np.testing.assert_allclose(total, gap.broadcast_like(total).transpose(*total.dims), atol=1e-6)
        assert (abs(gap).max("prompt") > 1e-3).all()


def test_a_linear_model_is_exact():
    model = linear_toy()
    for site in ("z", "mlp_out", "post", "v"):
        exact = interp.patch(model, task(), site, **QUIET)["value"]
        found = attribute(model, task(), site, method="secant", **QUIET)["value"]
        np.testing.assert_allclose(found, exact, atol=1e-11 * float(abs(exact).max()))
        assert abs(exact).max() > 1e-2


def test_z_is_what_its_pattern_and_values_make_it():
    """Δz = mean(pattern) Δv + mean(v) Δpattern: the estimates of v and pattern add up to those of z."""
    for name in (FEW[0], "clip"):
        value = {
            site: attribute(model_of(name), task(), site, "layer", method="secant", **QUIET)["value"]
            for site in ("z", "v", "pattern", "q", "k", "mlp_out", "post")
        }
        np.testing.assert_allclose(value["z"], value["v"] + value["pattern"], atol=1e-9)
        np.testing.assert_allclose(value["pattern"], value["q"] + value["k"], atol=1e-9)
        np.testing.assert_allclose(value["mlp_out"], value["post"], atol=1e-11)
        assert min(float(abs(v).max()) for v in value.values()) > 1e-3


def test_baselines_are_those_of_a_plain_run():
    model = model_of("sandwich-norm")
    plain = attribute(model, task(), "z", **QUIET)
    found = attribute(model, task(), "z", method="secant", **QUIET)
    for name in ("clean", "corrupt"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-12)


def test_a_head_that_switches_is_still_complete():
    model = model_of("LN-gelu_new-plain-serial-mha-rotary")
    kept = model.blocks[1].attn.W_Q.data.clone()
    try:
        model.blocks[1].attn.W_Q.data.mul_(40)
        found = attribute(model, task(), "resid_pre", "layer", method="secant", **QUIET)
    finally:
        model.blocks[1].attn.W_Q.data.copy_(kept)
    gap = found["clean"] - found["corrupt"]
    np.testing.assert_allclose(found["value"], gap.broadcast_like(found["value"]), atol=1e-7)
    assert found.attrs["softmax_residual"] < 1e-9


def test_what_is_not_covered_is_said(monkeypatch):
    """A hook that the slopes do not know of: refused before any pass, and the sum would tell too."""
    model = small.model()
    model.add_hook("blocks.1.hook_mlp_out", lambda tensor, hook: tensor**3)
    try:
        with pytest.raises(ValueError, match="hooks are attached"):
            attribute(model, task(), "z", method="secant", **QUIET)
        monkeypatch.setattr("interp.attribution._estimate.unsupported", lambda model: None)
        monkeypatch.setattr("interp.attribution._estimate.require_weights", lambda *args, **options: None)
        with pytest.raises(ValueError, match="secant estimates miss the metric's change"):
            attribute(model, task(), "z", method="secant", **QUIET)
    finally:
        model.reset_hooks()
