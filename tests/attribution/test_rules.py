"""Rules on unmodified models: the slopes of each, the report, and what is refused."""

from __future__ import annotations

from typing import Any

import architectures
import pytest
import small
import torch
from architectures import build, grid
from relevances import LINEAR, MOE, OFF, POST, PRE, attached, metric, slope

from interp.attribution import gradients, relevance_rules
from interp.attribution.rules._gates import gate
from interp.methods import GIM, AttnLRP, Relp, Rules, rules_of
from interp.models import anatomy
from interp.places import hook_name

TOKENS = architectures.tokens()[0]
CONFIGS = dict(grid())
PLAIN = "LN-gelu_new-plain-serial-mha-learned"
GATED = "RMS-silu-gated-parallel-gqa-rotary"
ATTENTION = {"n_layers": 1, "attn_only": True, "d_mlp": None, "act_fn": None, "normalization_type": None}


# What each family does, against the same by hand


def test_half_alone_halves_both_factors() -> None:
    model = build(CONFIGS[GATED])
    names = [PRE, LINEAR]
    true = gradients(model, TOKENS, names, lambda out: out.sum(), rules=OFF)[2]
    half = gradients(model, TOKENS, names, lambda out: out.sum(), rules=Rules(False, False, False, True))[2]
    last = "blocks.2.mlp.hook_pre"  # nothing but the norm and the unembedding comes after
    for rules, factor in ((OFF, 1.0), (Rules(False, False, False, True), 0.5)):
        found = slope(model, last, rules)
        torch.testing.assert_close(found, factor * slope(model, last), rtol=1e-12, atol=1e-14)
    assert float((half[PRE] - true[PRE]).abs().max()) > 1e-3


@pytest.mark.parametrize("half", [True, False])
def test_identity_on_a_gated_mlp(half: bool) -> None:
    """Slope gate(g) · u · h in g and act(g) · h in u, times the slope behind; 1 in the inner bias."""
    model = build(CONFIGS[GATED])
    rules = Rules(half=half)
    names = [PRE, LINEAR, POST]
    _, values, slopes = gradients(model, TOKENS, names, metric, rules=rules)
    h = 0.5 if half else 1.0
    c = gate("silu", values[PRE])
    torch.testing.assert_close(slopes[PRE], h * c * values[LINEAR] * slopes[POST])
    torch.testing.assert_close(slopes[LINEAR], h * c * values[PRE] * slopes[POST])
    with relevance_rules(model, rules):
        bias = torch.autograd.grad(metric(model(TOKENS)).sum(), model.blocks[1].mlp.b_in)[0]
    torch.testing.assert_close(bias, slopes[POST].sum((0, 1)))


def test_identity_on_a_plain_mlp() -> None:
    model = build(CONFIGS[PLAIN])
    _, values, slopes = gradients(model, TOKENS, [PRE, POST], metric, rules=Rules())
    torch.testing.assert_close(slopes[PRE], gate("gelu_new", values[PRE]) * slopes[POST])


def test_ln_keeps_the_centring() -> None:
    """Slope of a norm with a constant scale: (g - mean g) · w / σ, g the slope behind."""
    model = build({"normalization_type": "LN"})
    names = ["blocks.2.hook_resid_post", "ln_final.hook_scale"]
    _, values, slopes = gradients(model, TOKENS, names, metric, rules=Rules(True, False, False, False))
    weight = torch.autograd.grad(metric(logits := model(TOKENS)).sum(), logits)[0]
    behind = weight @ model.W_U.T * model.ln_final.w / values[names[1]]
    torch.testing.assert_close(slopes[names[0]], behind - behind.mean(-1, keepdim=True))


@pytest.mark.parametrize(("site", "factor"), [("q", 0.25), ("k", 0.25), ("v", 0.5), ("pattern", 0.5)])
def test_qkv_shares_the_products_of_attention(site: str, factor: float) -> None:
    model = build(ATTENTION)
    rules = Rules(ln=False, identity=False, ah=False, half=False, qkv=True)
    point = hook_name(site, 0)
    torch.testing.assert_close(
        slope(model, point, rules), factor * slope(model, point), rtol=1e-12, atol=1e-14
    )
    assert float(slope(model, point).abs().max()) > 1e-6


def test_temperature_is_that_of_softmaxs_slope() -> None:
    """(diag p - p pᵀ) g with p = softmax(scores / 2) and g the true slope in the pattern."""
    model = build(ATTENTION)
    rules = Rules(ln=False, identity=False, ah=False, half=False, temperature=2.0)
    names = ["blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"]
    _, values, slopes = gradients(model, TOKENS, names, metric, rules=rules)
    p, g = (values[names[0]] / 2).softmax(-1), slopes[names[1]]
    torch.testing.assert_close(g, slope(model, names[1]))
    torch.testing.assert_close(slopes[names[0]], p * (g - (p * g).sum(-1, keepdim=True)))
    assert float((slopes[names[0]] - slope(model, names[0])).abs().max()) > 1e-3


def test_ah_holds_the_pattern() -> None:
    model = build(CONFIGS[PLAIN])
    with pytest.raises(ValueError, match=r"no gradient reaches blocks.1.attn.hook_q.*ah=False"):
        slope(model, hook_name("q", 1), Rules())
    assert float(slope(model, hook_name("q", 1), Rules(ah=False)).abs().max()) > 1e-6
    assert float(slope(model, hook_name("pattern", 1), Rules()).abs().max()) > 1e-6


@pytest.mark.parametrize("method", ["relp", "attnlrp", "gim"])
@pytest.mark.parametrize("name", [PLAIN, GATED])
def test_every_site_has_a_slope_or_raises(name: str, method: str) -> None:
    model = build(CONFIGS[name])
    dead = ("q", "k") if method == "relp" else ()
    names = [hook_name(site, 1) for site in anatomy(model).sites() if site not in dead]
    slopes = gradients(model, TOKENS, names, metric, rules=rules_of(method))[2]
    assert all(float(slopes[name].abs().max()) > 1e-6 for name in names)
    for site in dead:
        with pytest.raises(ValueError, match=f"no gradient reaches blocks.1.attn.hook_{site}"):
            slope(model, hook_name(site, 1), rules_of(method))


def test_methods() -> None:
    assert Relp().rules == Rules()
    assert Relp(ah=False).rules == Rules(ah=False)
    assert AttnLRP().rules == Rules(ah=False, qkv=True)
    assert GIM(half=False).rules == Rules(identity=False, ah=False, half=False, qkv=True, temperature=2.0)


# The report, and what is refused


def test_report_lists_the_modules() -> None:
    with relevance_rules(build(CONFIGS[GATED])) as report:
        pass
    norms = [f"blocks.{layer}.{norm}" for layer in range(3) for norm in ("ln1", "ln2")]
    assert sorted(report["ln"]) == sorted([*norms, "ln_final"])
    assert report["identity"] == report["half"] == tuple(f"blocks.{layer}.mlp" for layer in range(3))
    assert report["ah"] == tuple(f"blocks.{layer}.attn" for layer in range(3))
    assert report["qkv"] == ()
    assert "half: 3 modules: blocks.0.mlp" in str(report)
    with pytest.raises(KeyError, match="ln2"):
        report["ln2"]


def test_families_that_the_model_lacks_are_skipped_by_default() -> None:
    with relevance_rules(build({**ATTENTION})) as report:
        assert set(report.touched) == {"ah"}
    assert report.skipped["ln"] == "the model has no norms"
    assert "half: none, the model has no gated MLP" in str(report)


@pytest.mark.parametrize(("family", "config"), [("half", {}), ("ln", ATTENTION), ("identity", ATTENTION)])
def test_a_family_that_is_asked_for_must_match(family: str, config: dict[str, Any]) -> None:
    with (
        pytest.raises(ValueError, match=f"{family}=True matches no module"),
        relevance_rules(build(config), Rules(**{family: True})),
    ):
        pass


@pytest.mark.parametrize(
    ("point", "family"),
    [
        ("hook_scale", "ln"),
        ("blocks.1.attn.hook_pattern", "ah"),
        ("blocks.1.mlp.hook_post", "identity"),
        ("blocks.1.mlp.hook_pre", "half"),
    ],
)
def test_hook_points_that_are_missing_are_an_error_by_default(point: str, family: str) -> None:
    """The architecture has the part: to skip it in silence would give another method's numbers."""
    model = build(CONFIGS[GATED])
    for name in [name for name in model.hook_dict if name.endswith(point)]:
        del model.hook_dict[name]
    with pytest.raises(ValueError, match=f"{family}=False"), relevance_rules(model):
        pass
    assert not attached(model)


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"ah": True, "qkv": True}, "Use ah=False"),
        ({"temperature": 2.0}, "Use ah=False"),
        ({"ah": False, "temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_switches_that_do_not_fit(switches: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Rules(**switches)
    with pytest.raises((ValueError, TypeError), match="yes"):
        Rules(ln="yes")  # type: ignore[arg-type]


def test_unknown_methods() -> None:
    with pytest.raises(ValueError, match="did you mean 'relp'"):
        rules_of("rel")
    model = small.model()
    with pytest.raises(ValueError, match="'atp' has no relevance rules"), relevance_rules(model, "atp"):
        pass
    with (
        pytest.raises(ValueError, match="expected a TransformerLens model"),
        relevance_rules(torch.nn.Linear(1, 1)),
    ):
        pass


def test_an_unknown_activation_is_an_error_and_not_a_skip() -> None:
    model = build({})
    model.cfg.act_fn = "xielu"
    with pytest.raises(ValueError, match=r"'xielu' is not known"), relevance_rules(model):
        pass
    with relevance_rules(model, Relp(identity=False)) as report:
        assert report["ln"]


def test_a_config_that_names_another_activation_is_found_at_the_first_pass() -> None:
    model = build(CONFIGS[PLAIN])
    model.cfg.act_fn = "silu"
    with relevance_rules(model), pytest.raises(ValueError, match=r"does not compute activation 'silu'"):
        model(TOKENS)
    assert not attached(model)


def test_a_mixture_without_hook_points_inside() -> None:
    config = MOE | {"original_architecture": "GptOssForCausalLM"}
    with (
        pytest.raises(ValueError, match=r"GptOssMoE.*identity=False, half=False"),
        relevance_rules(build(config)),
    ):
        pass


def test_compiled_and_checkpointed_models() -> None:
    model = build({})
    model.blocks[1]._compiled_call_impl = model.blocks[1]._call_impl  # what .compile() sets
    with pytest.raises(ValueError, match="compiled"), relevance_rules(model):
        pass
    model.blocks[1]._compiled_call_impl = None
    model.blocks[1].gradient_checkpointing = True
    with pytest.raises(ValueError, match="checkpointing"), relevance_rules(model):
        pass


def test_a_pass_that_goes_around_a_rule_is_an_error() -> None:
    model = build({})
    with relevance_rules(model):
        model.reset_hooks()
        with pytest.raises(ValueError, match=r"did not go by blocks\.0"):
            model(TOKENS)
    assert not attached(model)


def test_a_bridge_that_reports_its_pattern_too_late() -> None:
    model = small.bridge("gpt2")
    z = torch.zeros(1, 2, 24, dtype=torch.float64)
    with relevance_rules(model), pytest.raises(ValueError, match="is not what attention goes on with"):
        model.hook_dict["blocks.0.attn.hook_z"](z)


def test_a_bridge_out_of_compatibility_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.bridge("gpt2")
    monkeypatch.setattr(model, "compatibility_mode", False)
    with pytest.raises(ValueError, match="enable_compatibility_mode"), relevance_rules(model):
        pass
