"""Rules beside other hooks, nested, on several models; and a model left as it was, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import architectures
import pytest
import small
import torch
from architectures import build, grid
from relevances import OFF, POST, PRE, STREAM, attached, metric, slope
from torch import Tensor

from interp.attribution import gradients, relevance_rules
from interp.attribution.rules._gates import gate
from interp.methods import Relp, Rules, rules_of
from interp.places import hook_name

TOKENS = architectures.tokens()[0]
CONFIGS = dict(grid())
PLAIN = "LN-gelu_new-plain-serial-mha-learned"
GATED = "RMS-silu-gated-parallel-gqa-rotary"


def slope_within(model: Any, point: str = STREAM) -> Tensor:
    """With whatever hooks and rules the model has at the moment."""
    return slope(model, point)


def doubled(tensor: Tensor, hook: Any) -> Tensor:
    return 2 * tensor


def zeroed(tensor: Tensor, hook: Any) -> Tensor:
    return 0.0 * tensor


@pytest.mark.parametrize("inside", [True, False])
def test_rules_use_what_a_users_hook_made_of_an_input(inside: bool) -> None:
    """Pre-activations doubled by the user: the gate is that of the doubled ones, and so is the value."""
    model = build(CONFIGS[PLAIN])
    hooks: list[tuple[str, Callable[..., Tensor]]] = [(PRE, doubled)]
    if inside:
        with relevance_rules(model), model.hooks(fwd_hooks=hooks):
            _, values, slopes = gradients(model, TOKENS, [PRE, POST], metric)
    else:
        with model.hooks(fwd_hooks=hooks), relevance_rules(model):
            _, values, slopes = gradients(model, TOKENS, [PRE, POST], metric)
    torch.testing.assert_close(values[POST], gate("gelu_new", values[PRE]) * values[PRE])
    torch.testing.assert_close(slopes[PRE], gate("gelu_new", values[PRE]) * slopes[POST])


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("point", "spoiler"), [(POST, zeroed), (hook_name("z", 1), zeroed), (POST, doubled)])
def test_a_users_hook_keeps_its_own_slope(point: str, spoiler: Callable[..., Tensor], inside: bool) -> None:
    """What the user ablates lets no relevance through, in whatever order hooks and rules were attached."""
    model = build(CONFIGS[PLAIN])
    before = {POST: PRE, hook_name("z", 1): hook_name("v", 1)}[point]
    if inside:
        with relevance_rules(model), model.hooks(fwd_hooks=[(point, spoiler)]):
            found = slope_within(model, before)
            behind = slope_within(model, point)
    else:
        with model.hooks(fwd_hooks=[(point, spoiler)]), relevance_rules(model):
            found = slope_within(model, before)
            behind = slope_within(model, point)
    if spoiler is zeroed:
        assert float(behind.abs().max()) > 1e-6
        assert not found.any()
    else:
        values = gradients(model, TOKENS, [PRE], metric)[1]
        torch.testing.assert_close(found, 2 * gate("gelu_new", values[PRE]) * behind)


def test_nested_rules_do_not_add_up() -> None:
    """The innermost set holds alone, the outer one again after it."""
    model = build(CONFIGS[GATED])
    sets = {name: rules_of(name) for name in ("relp", "attnlrp", "gim")}
    alone = {name: slope(model, STREAM, rules) for name, rules in sets.items()}
    assert float((alone["relp"] - alone["attnlrp"]).abs().max()) > 1e-3
    for outer in sets:
        for inner in sets:
            with relevance_rules(model, sets[outer]):
                with relevance_rules(model, sets[inner]):
                    assert torch.equal(slope_within(model), alone[inner]), (outer, inner)
                assert torch.equal(slope_within(model), alone[outer]), (outer, inner)
    with relevance_rules(model), relevance_rules(model, OFF):
        torch.testing.assert_close(slope_within(model), slope(build(CONFIGS[GATED])))


def test_a_second_model_is_left_alone() -> None:
    first, second = build(CONFIGS[PLAIN]), build(CONFIGS[PLAIN])
    true = slope(second)
    with relevance_rules(first):
        assert torch.equal(slope_within(second), true)
        assert not torch.equal(slope_within(first), true)
        with relevance_rules(second, Relp(ah=False)):
            assert torch.equal(slope_within(first), slope(build(CONFIGS[PLAIN]), STREAM, Rules()))
    assert torch.equal(slope(first), true)


class Broken(Exception):
    pass


def broken_body(model: Any, rules: Rules) -> None:
    with relevance_rules(model, rules):
        slope_within(model)
        raise Broken


def broken_pass(model: Any, rules: Rules) -> None:
    def fail(tensor: Tensor, hook: Any) -> None:
        raise Broken

    with relevance_rules(model, rules), model.hooks(fwd_hooks=[(POST, fail)]):
        slope_within(model)


@pytest.mark.parametrize("broken", [broken_body, broken_pass])
@pytest.mark.parametrize("method", ["relp", "attnlrp", "gim"])
def test_the_model_is_left_as_it_was(method: str, broken: Callable[[Any, Rules], None]) -> None:
    """Hooks, their order, grad fields, flags and slopes; after an error in the body or within a pass."""
    model = build(CONFIGS[GATED])
    seen: list[str] = []

    def look(tensor: Tensor, hook: Any) -> None:
        seen.append(hook.name)

    for point in (PRE, POST, "blocks.1.attn.hook_pattern", "ln_final.hook_scale"):
        model.hook_dict[point].add_hook(look)
    model.blocks[0].mlp.W_in.requires_grad_(False)
    true, order = slope(model), list(seen)
    before, flags = attached(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(Broken):
        broken(model, rules_of(method))
    seen.clear()
    assert attached(model) == before
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert torch.equal(slope(model), true)
    assert seen == order
    assert len(order) == 4


def test_a_bridge_is_left_as_it_was(recwarn: pytest.WarningsRecorder) -> None:
    model = small.bridge("llama")
    true = slope(model)  # the bridge attaches hooks of its own at its first pass
    before = attached(model)
    with relevance_rules(model) as report:
        found = slope_within(model)
    assert report["half"] == tuple(f"blocks.{layer}.mlp" for layer in range(3))
    assert float((found - true).abs().max()) > 1e-3
    assert attached(model) == before
    torch.testing.assert_close(slope(model), true, rtol=0, atol=0)
    assert not [str(warning.message) for warning in recwarn.list]


def test_passes_without_gradients_are_plain() -> None:
    model = build(CONFIGS[GATED])
    with relevance_rules(model), torch.no_grad():
        out = model(TOKENS)
    assert not out.requires_grad
    assert torch.equal(out, model(TOKENS).detach())


@pytest.mark.parametrize("method", ["relp", "attnlrp", "gim"])
def test_bfloat16(method: str) -> None:
    """Bit-identical and finite, and near the slopes in float64."""
    model = build(CONFIGS[GATED])
    exact = slope(model, STREAM, rules_of(method))
    weights = model.state_dict()
    model = build(CONFIGS[GATED] | {"dtype": torch.bfloat16})
    model.load_state_dict(weights)
    with torch.no_grad():
        plain = model(TOKENS)
    with relevance_rules(model, rules_of(method)):
        assert torch.equal(model(TOKENS).detach(), plain)
    found = slope(model, STREAM, rules_of(method)).double()
    assert found.isfinite().all()
    assert float((found - exact).norm() / exact.norm()) < 0.1
