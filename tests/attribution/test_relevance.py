"""Relevance of one prompt: it adds up to the metric, and is value times coefficient under the rules."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch
from architectures import build, grid
from relevances import run

import interp
from interp.attribution import relevance
from interp.methods import Relp, parse
from interp.places import hook_name

CONFIGS: dict[str, dict[str, Any]] = dict(grid())
NAMES = (
    "LN-gelu_new-plain-serial-mha-learned",
    "RMS-silu-gated-parallel-gqa-rotary",
    "none-gelu_new-gated-serial-mha-learned",
    "attn-only",
    "sandwich-norm",
)
ROW = architectures.tokens()[0][:1]


def last(logits: torch.Tensor) -> torch.Tensor:
    """By prompt, or of one prompt: token 3 less token 5."""
    return logits[..., -1, 3] - logits[..., -1, 5]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_biases_add_up_to_the_metric(name: str) -> None:
    model = build(CONFIGS[name])
    found = relevance(model, ROW, (3, 5))
    with torch.no_grad():
        assert float(found["raw"]) == pytest.approx(float(last(model(ROW)[0])), abs=1e-12)
    biases = float(found["value"].sel(component="biases"))
    assert float(found["tokens"].sum()) + biases == pytest.approx(float(found["raw"]), abs=1e-10)
    assert abs(float(found["residual"])) < 1e-10
    assert float(abs(found["tokens"]).max()) > 1e-3
    assert float(found["value"].sel(component="embed")) == pytest.approx(float(found["tokens"].sum()))
    without = relevance(model, ROW, (3, 5), method=Relp(ah=False))
    assert abs(float(without["residual"])) > 1e-6


@pytest.mark.parametrize("family", small.FAMILIES)
def test_tokens_and_biases_add_up_on_a_bridge(family: str) -> None:
    found = relevance(small.bridge(family), ROW, (3, 5))
    assert abs(float(found["residual"])) < 1e-9
    assert float(abs(found["tokens"]).max()) > 1e-3


@pytest.mark.parametrize("method", ["relp", "attnlrp", "gim"])
def test_components_are_value_times_coefficient(method: str) -> None:
    model, rules = build(CONFIGS[NAMES[0]]), parse(method).rules
    names = [hook_name("resid_pre", 0), hook_name("z", 1), hook_name("mlp_out", 2)]
    _, values, slopes, _ = run(model, ROW, names, rules, last)
    stream, z, mlp = (values[name] * slopes[name] for name in names)
    found = relevance(model, ROW, (3, 5), method=method)
    np.testing.assert_allclose(found["tokens"], stream.sum((0, 2)), rtol=1e-10)
    heads = found["value"].sel(component=[f"L1H{head}" for head in range(z.shape[2])])
    np.testing.assert_allclose(heads, z.sum((0, 1, 3)), rtol=1e-10)
    np.testing.assert_allclose(found["value"].sel(component="MLP2"), mlp.sum(), rtol=1e-10)
    assert float(abs(heads).min()) > 1e-8


def test_metrics_by_token_pair_and_function_are_one() -> None:
    model = build(CONFIGS[NAMES[0]])
    pair, function = relevance(model, ROW, (3, 5)), relevance(model, ROW, last)
    np.testing.assert_allclose(pair["value"], function["value"], rtol=1e-12)
    one, other = relevance(model, ROW, 3), relevance(model, ROW[0], 5)
    np.testing.assert_allclose(pair["tokens"], one["tokens"] - other["tokens"], atol=1e-12)


def test_the_first_name_carries_the_answer_of_tiny_ioi() -> None:
    model = interp.load("tiny-ioi")
    prompt = "When Mary and John went to the store , John gave a book to"
    found = relevance(model, prompt, ("Mary", "John"))
    by_token = dict(zip(found["token"].values, found["tokens"].values))
    assert max(by_token, key=by_token.get) == "Mary"
    strip = interp.plot.tokens(found["token"].values, found["tokens"])
    assert "Mary" in strip.html()
    assert strip.values[2] == pytest.approx(by_token["Mary"], rel=1e-6)
    bars = interp.plot.bars(found)
    assert {"embed", "L0H0"} <= set(bars.layout.yaxis.ticktext)


def test_the_model_is_left_as_it_was() -> None:
    model = build(CONFIGS[NAMES[0]])
    flags = [p.requires_grad for p in model.parameters()]
    next(iter(model.parameters())).requires_grad_(False)
    with pytest.raises(ValueError, match="one number with a gradient"):
        relevance(model, ROW, lambda logits: logits.argmax(-1))
    relevance(model, ROW, 3)
    assert [p.requires_grad for p in model.parameters()] == [False, *flags[1:]]
    next(iter(model.parameters())).requires_grad_(flags[0])
    assert all(p.grad is None for p in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(
    ("tokens", "metric", "message"),
    [
        (architectures.tokens()[0], 3, "one prompt"),
        (ROW, (3, 5, 6), "3 tokens"),
        (ROW, 10_000, "token 10000 is not one of"),
    ],
)
def test_bad_input_before_the_first_pass(tokens: torch.Tensor, metric: Any, message: str) -> None:
    model = build(CONFIGS[NAMES[0]])

    def stop(tensor: torch.Tensor, hook: Any) -> None:
        raise AssertionError("a forward pass began")

    with model.hooks(fwd_hooks=[("hook_embed", stop)]), pytest.raises(ValueError, match=message):
        relevance(model, tokens, metric)


def test_rules_that_match_nothing_are_said() -> None:
    model = build(CONFIGS["attn-only"])
    with pytest.raises(ValueError, match="identity"):
        relevance(model, ROW, 3, method=Relp(identity=True))


def test_several_metrics_are_each_alone() -> None:
    """One forward, a backward each; the last dim is the metric."""
    model = build(CONFIGS[NAMES[0]])
    found = relevance(model, ROW, [(3, 5), 7, last])
    assert found["value"].dims == ("component", "metric")
    assert found["tokens"].dims == ("pos", "metric")
    for number, metric in enumerate(((3, 5), 7, last)):
        alone = relevance(model, ROW, metric)
        for name in ("value", "tokens", "raw", "residual"):
            np.testing.assert_allclose(found[name].isel(metric=number), alone[name], atol=1e-12)
    with pytest.raises(ValueError, match="metric is empty"):
        relevance(model, ROW, [])
