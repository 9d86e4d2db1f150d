"""Facts of architectures, hooks and hook points, on transformers' own classes."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
import torch
import verbs
import zoo

import interp
from interp import models, steering
from interp.models import _hub
from interp.models.hook_points import unreached

TOKENS = zoo.prompts()[0]
MIXED = (zoo.WINDOW, None, zoo.WINDOW)


@functools.cache
def load(name: str) -> Any:
    return interp.load(zoo.folder(name), dtype=zoo.dtype_of(name))


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("Llama", (None,) * 3),
        ("Mistral", (zoo.WINDOW,) * 3),
        ("Qwen 2", (None, zoo.WINDOW, zoo.WINDOW)),
        ("Gemma 3", MIXED),
        ("OLMo 3", MIXED),
        ("GPT-Neo", (None, zoo.WINDOW) * 2),
    ],
)
def test_windows_and_their_layers(name: str, windows: tuple[int | None, ...]) -> None:
    assert models.anatomy(load(name)).windows == windows


@pytest.mark.parametrize("name", ["OLMo 2", "Gemma 3", "GPT-2", "Mixtral"])
def test_the_architecture_is_read_on_both_classes(name: str) -> None:
    facts = models.anatomy(load(name))
    assert facts.architecture == zoo.FAMILIES[name][0]
    assert facts.post_norm == (name in ("OLMo 2", "Gemma 3"))
    assert facts.whole_qk_norm == (name == "OLMo 2")
    assert facts.experts == ((name == "Mixtral",) * zoo.N_LAYERS)


def test_attention_goes_both_ways_where_the_config_says_so() -> None:
    name = "Gemma 3, both ways"
    assert not models.anatomy(load(name)).causal
    assert verbs.check(name, ("attribute",))["attribute"].error < 1e-9


def test_heads_of_two_sizes_are_run_by_the_model() -> None:
    """TransformerLens cannot split such weights: the fall-back, not a refusal."""
    cells = verbs.check("Gemma 4, heads of two sizes", ("activations", "generate"))
    assert {name: cell.error for name, cell in cells.items()} == {"load": 0, "activations": 0, "generate": 0}


def test_heads_of_two_sizes_have_no_matrices_to_read_and_that_is_said() -> None:
    one = verbs.case("Gemma 4, heads of two sizes")
    said = "layer 0 are not those of 4 heads of 16, as cfg has it. What needs no matrix of a head"
    with pytest.raises(ValueError, match=said):
        interp.attribution.direct(one.model, one.task)
    with pytest.raises(ValueError, match=said):
        interp.attribute(one.model, one.task, "q", method="atp*", progress=False)
    with pytest.raises(ValueError, match=said):
        interp.heads.copying(one.model)
    with torch.no_grad(), verbs.Throughout64():
        found = interp.attribution.direct(one.model, one.task, heads=False)
        assert verbs.relative(found["value"].sum("component"), verbs.uncapped(one)) < 1e-9


def test_a_part_that_transformers_keeps_elsewhere_is_said_at_the_load(monkeypatch: Any) -> None:
    """CodeGen of transformers 5.24: its attention has no table of positions any more."""
    bridged = _hub._bridged

    def without(*given: Any) -> Any:
        model = bridged(*given)
        for block in vars(model)["original_model"].transformer.h:
            attn = block.attn.original_component
            if hasattr(attn, "embed_positions"):
                del attn.embed_positions
        return model

    monkeypatch.setattr(_hub, "_bridged", without)
    with pytest.raises(ValueError, match=r"cannot run it .*'CodeGenForCausalLM'.* part that it expects"):
        interp.load(zoo.folder("CodeGen"))


def test_neurons_are_counted_by_the_weights() -> None:
    assert models.anatomy(load("OPT")).d_mlp == 40


def test_gains_of_one_plus_w() -> None:
    model = load("Gemma 1")
    norm = models.final_norm(model)
    x = torch.randn(4, 32, dtype=torch.float64)
    torch.testing.assert_close(norm(x), model.ln_final(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["Mixtral", "gpt-oss"])
def test_a_mixture_has_no_neurons_to_patch(name: str) -> None:
    model = load(name)
    assert "post" not in models.anatomy(model).sites()
    assert "is a mixture of experts" in str(models.unsupported(model))
    task = interp.Task.from_tokens(
        clean=TOKENS.tolist(), corrupt=zoo.prompts()[1].tolist(), answer=[5, 6, 7], wrong=[8, 9, 10]
    )
    for call in (
        lambda: interp.patch(model, task, "post", progress=False),
        lambda: interp.attribute(model, task, "post", progress=False),
        lambda: interp.activations(model, TOKENS, "L1.post"),
        lambda: steering.mean_difference(model, TOKENS[:1], TOKENS[1:], layer=1, site="post"),
        lambda: steering.generate(
            model, TOKENS, steering.edits.scale_units("L1.post", [5], 0.0), max_new_tokens=1
        ),
    ):
        with pytest.raises(ValueError, match=r"mixes experts.*patch mlp_out|has no site 'post'"):
            call()


@pytest.mark.skipif("DeepSeek 3" in zoo.refused(), reason="interp.load refuses it here")
def test_latent_attention_has_no_heads_of_its_own() -> None:
    facts = models.anatomy(load("DeepSeek 3"))
    assert not {"q", "k", "v", "z"} & set(facts.sites())
    assert "resid_pre" in facts.sites()


@pytest.mark.parametrize("name", ["GPT-J", "GPT-Neo", "OPT", "Llama"])
def test_a_pattern_that_is_thrown_away_is_found(name: str) -> None:
    model = load(name)
    reason = unreached(model, "pattern", TOKENS)
    delegated = models.is_bridge(model) and name != "Llama"
    assert ("does not reach the logits" in str(reason)) == delegated
    assert unreached(model, "z", TOKENS) is None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_hooks_that_transformer_lens_attaches_are_not_the_users() -> None:
    model = load("OPT")
    model(TOKENS)
    assert not models.has_hooks(model)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda tensor, hook: tensor)]):
        assert models.has_hooks(model)
    handle = model.blocks[1].mlp.register_forward_hook(lambda module, args, out: out)
    assert models.has_hooks(model)
    handle.remove()
    assert not models.has_hooks(model)


@pytest.mark.parametrize("name", ["GPT-2", "Gemma 3", "Phi 3, longrope", "Falcon"])
def test_the_fingerprint_of_the_computation(name: str) -> None:
    """It stays while nothing changes, and follows hooks, modes, weights and functions."""
    model = interp.load(zoo.folder(name))
    mlp = model.blocks[1].mlp
    before = models.computation_fingerprint(model)
    model(TOKENS)
    assert models.computation_fingerprint(model) == before
    handle = mlp.register_forward_hook(lambda module, args, out: out * 0)
    assert models.computation_fingerprint(model) != before
    handle.remove()
    assert models.computation_fingerprint(model) == before
    model.blocks[0].train()
    assert models.computation_fingerprint(model) != before
    model.eval()
    with torch.no_grad():
        next(model.parameters()).mul_(1.0)
    later = models.computation_fingerprint(model)
    assert later != before
    mlp.forward = lambda x: x
    assert models.computation_fingerprint(model) != later


def test_frequencies_of_a_longrope_are_followed_where_they_last() -> None:
    """`inv_freq` is made anew at each pass from two tensors, an edit of which is an edit of the model."""
    model = interp.load(zoo.folder("Phi 3, longrope"))
    rotary = next(each for each in model.modules() if getattr(each, "rope_type", None) == "longrope")
    whole, before = model(TOKENS), models.computation_fingerprint(model)
    rotary.inv_freq.mul_(3)
    assert models.computation_fingerprint(model) == before
    assert torch.equal(model(TOKENS), whole)
    rotary.original_inv_freq.mul_(3)
    assert models.computation_fingerprint(model) != before
    assert (model(TOKENS) - whole).abs().max() > 1e-3


def test_rotary_that_depends_on_the_length_is_said() -> None:
    reason = models.unsupported(load("Llama, dynamic rotary"))
    assert reason is None or "dynamic" in reason
    assert reason is not None or not models.is_bridge(load("Llama, dynamic rotary"))


def test_angles_that_change_with_the_length() -> None:
    """Longrope has other angles past 16 tokens, for every row of a batch that is as long."""
    model = load("Phi 3, longrope")
    assert models.anatomy(model).rotary_switch == 16
    long = torch.cat((TOKENS, TOKENS.flip(1)), 1)  # 24 tokens
    found, uncached = (
        steering.generate(model, TOKENS, max_new_tokens=6, stop=(), use_cache=use, engine="reference")
        for use in (True, False)
    )
    assert torch.equal(found, uncached)
    clean, corrupt = ([long[i].tolist(), TOKENS[i + 1].tolist()] for i in (0, 1))
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[5, 6], wrong=[7, 8])
    with pytest.raises(ValueError, match=r"runs of 12 to 24 tokens lie on both sides of the 16 at which"):
        interp.patch(model, task, "resid_pre", progress=False)
    rows, real = torch.zeros(2, 24, dtype=torch.long), torch.ones(2, 24, dtype=torch.bool)
    rows[0], rows[1, :12], real[1, 12:] = long[0], TOKENS[1], False
    with pytest.raises(ValueError, match=r"runs of 12 to 25 tokens lie on both sides"):
        steering.generate(model, rows, mask=real, max_new_tokens=2, engine="reference")
    apart = steering.activations(model, TOKENS[1:2], "L2.resid_pre", engine="reference")
    together = steering.activations(model, rows, "L2.resid_pre", mask=real, engine="reference")
    torch.testing.assert_close(together[1:], apart, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["Falcon", "MPT", "Bloom"])
def test_rules_know_the_activation_that_a_bridges_cfg_does_not(name: str) -> None:
    """The identity rule, against transformers' own activation with its gate held fast."""
    one = verbs.case(name)
    if models.is_bridge(one.model):
        assert models.anatomy(one.model).act_fn != one.model.cfg.act_fn
    for layer in one.oracle.layers:
        for module in [module for module in layer.modules() if "gelu" in type(module).__name__.lower()]:
            act = module.forward
            module.forward = lambda x, act=act: x * (act(x) / x).detach()
    with torch.no_grad():
        (_, clean), (_, corrupt) = (one.oracle.inputs(each) for each in (one.task.clean, one.task.corrupt))
    _, slopes = one.oracle.slopes(one.task.corrupt, one.metric)
    right = [one.oracle.heads_of(s * (a - b)).sum((1, 3)) for s, a, b in zip(slopes, clean, corrupt)]
    method = interp.methods.Relp(ln=False, identity=True, ah=False, half=False)
    found = interp.attribute(one.model, one.task, "z", method=method, progress=False)
    assert verbs.relative(found.value.transpose("prompt", "layer", "head"), torch.stack(right, 1)) < 1e-5
    plain = interp.attribute(one.model, one.task, "z", progress=False)
    assert float(abs(found.value - plain.value).max()) > 0.01


@pytest.mark.parametrize("name", ["Gemma 2"])
def test_a_config_inside_a_bridge_is_seen(name: str) -> None:
    """Transformers reads the cap of the logits from its config at every pass."""
    model = interp.load(zoo.folder(name), dtype=torch.float64)
    if not models.is_bridge(model):
        pytest.skip("a HookedTransformer has no config of transformers")
    before = models.computation_fingerprint(model)
    model.original_model.config.final_logit_softcapping = 1.0
    assert models.computation_fingerprint(model) != before
    task = interp.Task.from_tokens(clean=TOKENS, answer=[5, 6, 7], wrong=[8, 9, 10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"ablation": "zero", "progress": False}
        auto, slow = (interp.patch(model, task, "z", engine=e, **options) for e in ("auto", "reference"))
    assert abs(auto["value"] - slow["value"]).max() <= 1e-6
