"""AtP*: exact changes of the pattern for queries and keys, and layers dropped one at a time."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from estimates import activation, model_of
from sides import grids

import interp
from interp.attribution import attribute, gradients
from interp.attribution._atp_star import key_effects
from interp.methods import AtpStar
from interp.models import anatomy, logits
from interp.places import hook_name

QK = {"method": AtpStar(grad_drop=False)}


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1000.0])
def test_key_formula_is_the_softmax_again(scale):
    """One logit changes in every row: the closed form against a softmax for every key, saturated or not."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 8, 8)
    scores, slope, shift = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    hidden = torch.ones(8, 8).triu(1).bool()  # the first row has a single key
    scores, moved = ((s * scale).masked_fill(hidden, -torch.inf) for s in (scores, scores + 2 * shift))
    found = key_effects(scores, moved, slope)
    for key in range(8):
        alone = scores.clone()
        alone[..., key] = moved[..., key]
        wanted = ((alone.softmax(-1) - scores.softmax(-1)) * slope).sum(-1)
        assert (found[..., key] - wanted).abs().max() <= 1e-12
    assert found.abs().max() > 1e-2
    assert torch.isfinite(found).all()
    assert (found[..., 0, :] == 0).all()


@pytest.mark.parametrize(
    "name", ["LN-gelu_new-plain-serial-gqa-rotary", "qk-norm", "alibi", "local", "soft-cap", "clip"]
)
def test_the_pattern_is_changed_as_the_model_changes_it(name):
    """Query and key cells against the model's own pattern under that patch, times the pattern's slope."""
    _against_the_models_pattern(model_of(name))


def test_the_pattern_is_changed_as_a_bridge_changes_it():
    _against_the_models_pattern(small.bridge("gpt2"))
    _against_the_models_pattern(small.bridge("neox"))


def _against_the_models_pattern(model):
    pairs, layer, rng = task(first=3, n=2), 1, np.random.default_rng(0)
    rows = torch.arange(len(pairs))

    def metric(out):
        last = out[rows, pairs.positions]
        return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

    name = hook_name("pattern", layer)
    _, base, slopes = gradients(model, pairs.corrupt, [name], metric)
    for site in ("q", "k"):
        source = activation(model, pairs.clean, hook_name(site, layer))
        by_position = attribute(model, pairs, site, ("layer", "pos", "head"), **QK, **QUIET)["value"]
        by_head = attribute(model, pairs, site, **QK, **QUIET)["value"]
        for pos in (slice(None), 2, *rng.integers(3, 9, 2).tolist()):
            head = int(rng.integers(anatomy(model).heads(site)))
            change = _pattern_under(model, pairs.corrupt, layer, site, source, pos, head) - base[name]
            wanted = (change * slopes[name]).sum((1, 2, 3)).detach()
            found = by_head.sel(layer=layer, head=head)
            if pos != slice(None):
                found = by_position.sel(layer=layer, head=head, pos=pos)
            np.testing.assert_allclose(found, wanted, atol=1e-11)
        assert abs(by_head.sel(layer=layer)).min() > 1e-7


def _pattern_under(model, tokens, layer, site, source, pos, head):
    kept = []

    def put(tensor, hook):
        tensor = tensor.clone()
        tensor[:, pos, head] = source[:, pos, head]
        return tensor

    hooks = [
        (hook_name(site, layer), put),
        (hook_name("pattern", layer), lambda t, hook: kept.append(t.clone())),
    ]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        logits(model, tokens)
    return kept[-1]


@pytest.mark.parametrize("sharpness", [1.0, 60.0])
@pytest.mark.parametrize("kv", [None, 2])
def test_saturated_heads_are_recovered(sharpness, kv):
    """One layer of attention and nothing after it: all behind the pattern is linear, so the fix is exact."""
    config = {"n_layers": 1, "attn_only": True, "d_mlp": None, "act_fn": None, "normalization_type": None}
    model = architectures.build(config | {"n_key_value_heads": kv})
    with torch.no_grad():
        model.blocks[0].attn.W_Q.mul_(sharpness)
    for site in ("q", "k"):
        for by in grids(site):
            exact = interp.patch(model, task(), site, by, **QUIET)["value"]
            fixed = attribute(model, task(), site, by, **QK, **QUIET)["value"]
            np.testing.assert_allclose(fixed, exact, atol=1e-11)
            assert abs(exact).max() > 1e-3
    plain = attribute(model, task(), "k", **QUIET)["value"]
    exact = interp.patch(model, task(), "k", **QUIET)["value"]
    if sharpness > 1:  # the softmax is flat where a head is sure of itself: the slope sees next to nothing
        assert abs(plain - exact).sum() > 0.9 * abs(exact).sum()


def test_the_fix_touches_queries_and_keys_alone(model):
    sites = ["z", "v", "q", "k"]
    plain = attribute(model, task(), sites, **QUIET)["value"]
    fixed = attribute(model, task(), sites, **QK, **QUIET)["value"]
    np.testing.assert_allclose(fixed.sel(site=["z", "v"]), plain.sel(site=["z", "v"]), atol=1e-12)
    assert (abs(fixed - plain).sel(site=["q", "k"]) > 1e-9).mean() > 0.9


def test_grad_drop_sees_what_cancels():
    """x - relu(x): at x = 1 the slope is 0; x = -1 takes 1 away. Dropping the second layer shows |Δx| = 2."""
    model, pairs = cancelling()
    exact = interp.patch(model, pairs, "mlp_out", **QUIET)["value"].sel(layer=0, pos=0)
    plain = attribute(model, pairs, "mlp_out", **QUIET)["value"].sel(layer=0, pos=0)
    dropped = attribute(model, pairs, "mlp_out", method="atp*", **QUIET)["value"].sel(layer=0, pos=0)
    assert float(exact[0]) == pytest.approx(-1, abs=1e-12)
    assert float(plain[0]) == pytest.approx(0, abs=1e-12)
    assert float(dropped[0]) == pytest.approx(2, abs=1e-12)


def cancelling():
    """Layer 0 writes ±1 by the token, layer 1 takes relu of it away, the answer's logit reads the rest."""
    config = {"n_layers": 2, "d_model": 4, "d_head": 2, "n_heads": 2, "d_mlp": 2, "d_vocab": 4}
    model = architectures.build(config | {"normalization_type": None, "act_fn": "relu"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.W_E[2, 0] = 1.0  # the corrupt token
        first, second = model.blocks[0].mlp, model.blocks[1].mlp
        first.W_in[0, 0], first.W_out[0, 1], first.b_out[1] = 1.0, 2.0, -1.0
        second.W_in[1, 0], second.W_out[0, 1] = 1.0, -1.0
        model.unembed.W_U[1, 3] = 1.0
    tokens = {"clean": torch.tensor([[1]]), "corrupt": torch.tensor([[2]])}
    return model, interp.Task.from_tokens(**tokens, answer=[3], wrong=[1])


@pytest.mark.parametrize(
    "name", ["LN-gelu_new-plain-serial-gqa-rotary", "RMS-silu-gated-parallel-mha-learned"]
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_grad_drop_is_a_loop_over_layers(name, direction):
    """Its definition: for every layer a run of its own, with what that layer writes detached."""
    model, pairs = model_of(name), task(n=3)
    base, source = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    rows = torch.arange(len(pairs))

    def metric(out):
        last = out[rows, pairs.positions]
        return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

    for site in ("resid_pre", "attn_out", "mlp_out"):
        names = [hook_name(site, layer) for layer in range(3)]
        deltas = [activation(model, source, n) - activation(model, base, n) for n in names]
        total = np.zeros((len(pairs), 3, 9))
        for dropped in range(3):
            cut = [(hook_name(s, dropped), lambda t, hook: t.detach()) for s in ("attn_out", "mlp_out")]
            with model.hooks(fwd_hooks=cut):
                _, _, slopes = gradients(model, base, names, metric)
            for layer, (n, delta) in enumerate(zip(names, deltas)):
                own = site != "resid_pre" and layer == dropped  # what is constant moves nothing
                total[:, layer] += 0 if own else (delta * slopes[n]).sum(-1).abs().detach().numpy()
        found = attribute(model, pairs, site, method=AtpStar(qk_fix=False), direction=direction, **QUIET)[
            "value"
        ]
        np.testing.assert_allclose(found, total / (3 if site == "resid_pre" else 2), atol=1e-11)
        assert (found >= 0).all()
        assert float(found.max()) > 1e-2


def test_both_together_use_the_dropped_slopes_of_the_pattern(model):
    both = attribute(model, task(), ["q", "k"], method="atp*", **QUIET)["value"]
    fixed = attribute(model, task(), ["q", "k"], **QK, **QUIET)["value"]
    dropped = attribute(model, task(), ["q", "k"], method=AtpStar(qk_fix=False), **QUIET)["value"]
    assert (both >= 0).all()
    assert (abs(both - abs(fixed)) > 1e-9).mean() > 0.5
    assert (abs(both - dropped) > 1e-9).mean() > 0.5
    # in the last layer there is nothing left to drop but the MLP after the head
    np.testing.assert_array_less(0, both.sel(layer=2))
