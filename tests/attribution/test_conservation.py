"""Conservation: metric = Σ_pos x · ρ + Σ_{biases downstream} b · slope, at every cut of the stream, under all
four rules; and not without any one that the architecture needs."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import small
import torch
from architectures import build, grid
from relevances import MOE, gaps, metric, place, run

from interp.attribution import relevance_rules
from interp.methods import Rules

OWN = {"solu-ln": {"act_fn": "solu_ln"}, "relu2": {"act_fn": "relu2"}}
CONFIGS = {name: config for name, config in grid() if name != "clip"} | OWN
ALL_BUT_AH = Rules(ah=False, qkv=True, temperature=2.0)
TOKENS = architectures.tokens()[0]
GELU, GATED = "LN-gelu_new-plain-serial-mha-learned", "RMS-silu-gated-parallel-gqa-rotary"
NEEDED = [
    *((name, rule) for name in (GELU, "sandwich-norm", "qk-norm") for rule in ("ln", "identity", "ah")),
    *((GATED, rule) for rule in ("ln", "identity", "ah", "half")),
    ("none-relu-gated-serial-mha-learned", "half"),
    ("none-relu-gated-serial-mha-learned", "ah"),
    ("attn-only", "ln"),
    ("attn-only", "ah"),
]


def mixture() -> Any:
    return build(MOE).double()


def change_of_values(model: Any, rules: Rules) -> float:
    """Largest change of a logit under rules, as a share of the largest logit."""
    with torch.no_grad():
        plain = model(TOKENS)
    with relevance_rules(model, rules):
        ruled = model(TOKENS)
    assert ruled.grad_fn is not None
    return float((ruled.detach() - plain).abs().max() / plain.abs().max())


@pytest.mark.parametrize("name", CONFIGS)
def test_metric_is_conserved_at_every_cut(name: str) -> None:
    """And under the rules, all of them, the values of the forward pass are the same to the last bit."""
    model = build(CONFIGS[name])
    found, size = gaps(model, TOKENS, Rules())
    assert len(found) >= 4
    assert max(found.values()) < 1e-10 * size
    assert change_of_values(model, ALL_BUT_AH) == 0  # under RelP's rules: see test_surrogate


@pytest.mark.parametrize(("name", "rule"), NEEDED)
def test_no_rule_can_be_left_out(name: str, rule: str) -> None:
    model = build(CONFIGS[name])
    found, size = gaps(model, TOKENS, Rules(**{rule: False}))
    assert found["blocks.0.hook_resid_pre"] > 1e-6 * size
    complete, _ = gaps(model, TOKENS, Rules())
    assert complete["blocks.0.hook_resid_pre"] < 1e-10 * size


@pytest.mark.parametrize("rule", ["ln", "identity", "ah", "half"])
def test_mixture_of_experts(rule: str) -> None:
    model = mixture()
    found, size = gaps(model, TOKENS, Rules())
    assert max(found.values()) < 1e-10 * size
    assert change_of_values(model, Rules()) == change_of_values(model, ALL_BUT_AH) == 0
    broken, _ = gaps(model, TOKENS, Rules(**{rule: False}))
    assert broken["blocks.0.hook_resid_pre"] > 1e-6 * size


def test_router_is_constant() -> None:
    """No slope reaches the router's weights, and without the half rule one does."""
    model = mixture()
    router = model.blocks[0].mlp.W_gate.weight
    for rules, reached in ((Rules(), False), (Rules(half=False), True)):
        with relevance_rules(model, rules):
            slope = torch.autograd.grad(metric(model(TOKENS)).sum(), router, allow_unused=True)[0]
        assert (slope is not None and float(slope.abs().max()) > 1e-6) is reached


def test_soft_cap_on_the_logits() -> None:
    """Identity passes cap · tanh(x / cap) as a gate; the true slope does not conserve."""
    model = build({"attn_only": True, "d_mlp": None, "act_fn": None, "output_logits_soft_cap": 3.0})
    found, size = gaps(model, TOKENS, Rules())
    assert max(found.values()) < 1e-10 * size
    assert (model(TOKENS).abs() > 2.5).any()  # the cap is felt
    broken, _ = gaps(model, TOKENS, Rules(identity=False))
    assert min(broken.values()) > 1e-3 * size


def test_clipped_values_enter_as_constants() -> None:
    """clip_qkv keeps its own slope: what it cuts off at ±c is conserved as a bias of ±c."""
    model = build(dict(grid())["clip"])
    names = [
        f"blocks.{layer}.{point}" for layer in range(3) for point in ("attn.hook_v", "attn.hook_pattern")
    ]
    names += [f"blocks.{layer}.attn.hook_z" for layer in range(3)] + ["blocks.0.hook_resid_pre"]
    value, values, slopes, biases = run(model, TOKENS, names, Rules())
    clip, constants = model.cfg.clip_qkv, 0.0
    for layer in range(3):
        v, pattern = (values[f"blocks.{layer}.attn.hook_{point}"] for point in ("v", "pattern"))
        cut = torch.where(v.abs() > clip, v.clamp(-clip, clip), 0.0)
        z = torch.einsum("phds,pshe->pdhe", pattern, cut)
        constants += float((z * slopes[f"blocks.{layer}.attn.hook_z"]).sum())
    stream = float((values["blocks.0.hook_resid_pre"] * slopes["blocks.0.hook_resid_pre"]).sum())
    added = sum(float((b * slopes[name]).sum()) for name, b in biases.items())
    assert abs(constants) > 1e-3
    assert stream + added + constants == pytest.approx(float(value.sum()), abs=1e-10)


@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", "RMSPre"])
def test_collapse_at_the_final_norm(norm: str) -> None:
    """A norm's output does not change with the length of its input, so the true gradient is orthogonal to the
    stream; under the LN-rule the two multiply to the metric less what the biases behind it add."""
    model = build({"normalization_type": norm})
    last = "blocks.2.hook_resid_post"
    value, values, slopes, _ = run(model, TOKENS, [last], None)
    total, stream = float(value.sum()), values[last]
    assert abs(float((stream * slopes[last]).sum())) < 1e-4 * abs(total)
    value, values, slopes, biases = run(model, TOKENS, [last], Rules(identity=False, ah=False))
    added = sum(float((b * slopes[n]).sum()) for n, b in biases.items() if place(n) == (1000, 0))
    assert abs(added) > 1e-3
    assert float((values[last] * slopes[last]).sum()) == pytest.approx(total - added, abs=1e-10)


@pytest.mark.parametrize("family", small.FAMILIES)
def test_bridge(family: str) -> None:
    """Conserved as on HookedTransformer; the forward pass is that of the model to 1e-6 of the logits."""
    model = small.bridge(family)
    stream = "blocks.0.hook_resid_pre"
    for rules in (Rules(), ALL_BUT_AH):
        assert change_of_values(model, rules) <= 1e-6
    for rules, holds in ((Rules(), True), (Rules(ah=False), False), (Rules(identity=False), False)):
        value, values, slopes, biases = run(model, TOKENS, [stream], rules)
        ends = ("lm_head._original_component.bias", "unembed._original_component.bias")  # 3.9, 4.x
        bias = next((b for name, b in model.named_buffers() if name.endswith(ends)), None)
        head = 0.0 if bias is None else float(metric(bias.expand(1, TOKENS.shape[1], -1)).sum()) * len(TOKENS)
        added = head + sum(float((b * slopes[n]).sum()) for n, b in biases.items())
        gap = abs(float(value.sum()) - added - float((values[stream] * slopes[stream]).sum()))
        assert (gap < 1e-9 * max(1.0, abs(float(value.sum())))) is holds
