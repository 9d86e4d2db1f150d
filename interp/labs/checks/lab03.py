"""Lab 03, relevance: checks of `frozen_norm`, `identity_rule`, `half_rule`, `missing`.

The rules are judged by what they give and by the slopes that autograd finds in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference


def value_and_slopes(fn: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """A function that gives what fn gives, and the slope of a weighted sum of it in each of its tensors."""

    def run(*args: Tensor) -> dict[str, Any]:
        leaves = [value.detach().clone().requires_grad_() for value in args]
        value = fn(*leaves)
        if not isinstance(value, Tensor) or value.grad_fn is None:
            return {"value": value, "slope": None}
        weights = torch.linspace(1.0, 2.0, value.numel()).view(value.shape)
        slopes = torch.autograd.grad((value * weights).sum(), leaves, allow_unused=True)
        kept = {f"slope in argument {i + 1}": slope for i, slope in enumerate(slopes)}
        return {"value": value.detach(), **kept}

    return run


@cache
def _activations() -> tuple[Tensor, Tensor]:
    """Of tiny-world in layer 1: the stream at the last token, and what goes into the activation function."""
    import interp

    loaded = model("tiny-world")
    task = interp.tasks.ioi(loaded, n=6, seed=0, template=0)
    with torch.no_grad():
        cache = loaded.run_with_cache(task.clean)[1]
    return cache["blocks.1.hook_resid_pre"][:, -1].clone(), cache["blocks.1.mlp.hook_pre"][:, -1].clone()


# frozen_norm


def _scale(x: Tensor) -> Tensor:
    return (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


@reference
def _frozen_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / _scale(x).detach() * gain


def _norm_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        stream = _activations()[0].clone()
        return stream, torch.ones(stream.shape[-1])

    return [
        Case(
            lambda: (torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])),
            "one vector by hand",
            "the scale of (3, 4) is √12.5 = 3.54: value (0.849, 2.263); slopes are weights · gain / 3.54",
        ),
        Case(lambda: (drawn(3, 5), drawn(5, seed=1)), "random vectors"),
        Case(on_model, "the stream of tiny-world before layer 1"),
    ]


frozen_norm = Exercise(
    "frozen_norm",
    _frozen_norm,
    _norm_cases,
    lambda right: f"the largest number on tiny-world is {right['value'].abs().max():.1f}, with or without",
    measure=value_and_slopes,
)


@frozen_norm.mistake("nothing is held constant: this is the plain norm. Detach the scale")
def _norm_plain(x: Tensor, gain: Tensor) -> Tensor:
    return x / _scale(x) * gain


@frozen_norm.mistake("x is detached as well, so that no slope reaches it; detach the scale alone")
def _norm_all(x: Tensor, gain: Tensor) -> Tensor:
    return (x / _scale(x)).detach() * gain


@frozen_norm.mistake("the scale is the sum of squares; RMSNorm takes their mean")
def _norm_sum(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt().detach() * gain


@frozen_norm.mistake("the mean is subtracted: that is LayerNorm, RMSNorm does not")
def _norm_centred(x: Tensor, gain: Tensor) -> Tensor:
    return _norm_frozen_of(x - x.mean(-1, keepdim=True), gain)


def _norm_frozen_of(x: Tensor, gain: Tensor) -> Tensor:
    return x / _scale(x).detach() * gain


@frozen_norm.mistake("one scale is used for all vectors; take the mean over the last dimension, keepdim=True")
def _norm_one_scale(x: Tensor, gain: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt().detach() * gain


# identity_rule


def _share(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@reference
def _identity_rule(x: Tensor) -> Tensor:
    return x * _share(x).detach()


def _identity_cases() -> list[Case]:
    three = "gelu is −0.159, 0, 1.955; the slopes are the shares 0.159, 0.5, 0.977, times the weights"
    return [
        Case(lambda: (torch.tensor([-1.0, 0.0, 2.0]),), "−1, 0, 2 by hand", three),
        Case(lambda: (drawn(3, 4),), "random numbers"),
        Case(lambda: (_activations()[1].clone(),), "what enters the GELU of tiny-world's layer 1"),
    ]


identity_rule = Exercise(
    "identity_rule",
    _identity_rule,
    _identity_cases,
    lambda right: f"in tiny-world's layer 1 gelu gives {right['value'].max():.1f} at most, with or without",
    measure=value_and_slopes,
)


@identity_rule.mistake("nothing is held constant: this is the plain gelu")
def _identity_plain(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x)


@identity_rule.mistake("the value is x and no longer gelu(x): a rule changes slopes, never values")
def _identity_value(x: Tensor) -> Tensor:
    return x * 1.0


@identity_rule.mistake("the slope is 1 everywhere: the share is lost on the way back")
def _identity_through(x: Tensor) -> Tensor:
    return x + (torch.nn.functional.gelu(x) - x).detach()


@identity_rule.mistake("x is detached and the share is not; it is the other way round")
def _identity_other(x: Tensor) -> Tensor:
    return x.detach() * _share(x)


@identity_rule.mistake("all of it is detached: no slope is left")
def _identity_none(x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(x).detach()


# half_rule


@reference
def _half_rule(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * (a * b.detach() + a.detach() * b)


def _half_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        pre = _activations()[1]
        return pre[:, ::2].clone(), pre[:, 1::2].clone()

    two = "2 · 3 = 6; a's slope is 3 / 2 and b's 2 / 2: a · 1.5 + b · 1 = 6, all of it and not twice"
    return [
        Case(lambda: (torch.tensor([2.0]), torch.tensor([3.0])), "2 · 3 by hand", two),
        Case(lambda: (drawn(3, 4), drawn(3, 4, seed=1)), "random numbers"),
        Case(on_model, "numbers of tiny-world's layer 1"),
    ]


half_rule = Exercise(
    "half_rule",
    _half_rule,
    _half_cases,
    lambda right: "a · slope + b · slope is now a · b, 1 times and no longer 2 times",
    measure=value_and_slopes,
)


@half_rule.mistake("this is the plain product: both get the whole, together twice what there is")
def _half_plain(a: Tensor, b: Tensor) -> Tensor:
    return a * b


@half_rule.mistake("the value is halved as well: a rule changes slopes, never values")
def _half_value(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * a * b


@half_rule.mistake("a gets everything and b nothing")
def _half_first(a: Tensor, b: Tensor) -> Tensor:
    return a * b.detach()


@half_rule.mistake("b gets everything and a nothing")
def _half_second(a: Tensor, b: Tensor) -> Tensor:
    return a.detach() * b


@half_rule.mistake("the two products are added and not halved: the value is twice a · b")
def _half_twice(a: Tensor, b: Tensor) -> Tensor:
    return a * b.detach() + a.detach() * b


# missing: [prompt, d] → [prompt]


@reference
def _missing(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return metric - (x * slope).sum(-1)


def _missing_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        x, slope = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([[3.0, 1.0], [9.0, 1.0]])
        return x, slope, torch.tensor([5.0, 6.0])

    def on_model() -> tuple[Any, ...]:
        stream = _activations()[0].clone().requires_grad_()
        readout = drawn(stream.shape[-1])
        metric = _norm_frozen_of(stream, torch.ones(stream.shape[-1])) @ readout
        (slope,) = torch.autograd.grad(metric.sum(), stream)
        return stream.detach(), slope, metric.detach() + 1

    two = "prompt 0: 5 − (1·3 + 2·1) = 0; prompt 1: 6 − (0·9 + 5·1) = 1"
    return [
        Case(by_hand, "two prompts by hand", two),
        Case(lambda: (drawn(3, 4), drawn(3, 4, seed=1), drawn(3, seed=2)), "random numbers"),
        Case(on_model, "a frozen norm on tiny-world's stream, whose metric was raised by 1"),
    ]


missing = Exercise(
    "missing",
    _missing,
    _missing_cases,
    lambda right: f"a frozen norm misses 0; with the metric raised by 1 it missed {right.mean():.3f}",
    tolerance=1e-3,
)


@missing.mistake("this sums over prompts too; each prompt has its own sum")
def _missing_summed(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return metric - (x * slope).sum()


@missing.mistake("x is not used: relevance is x times slope")
def _missing_slope(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return metric - slope.sum(-1)


@missing.mistake("this is the relevance minus the metric; the sign is turned")
def _missing_turned(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return (x * slope).sum(-1) - metric


@missing.mistake("this is the relevance itself; subtract it from the metric")
def _missing_relevance(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return (x * slope).sum(-1)


@missing.mistake("this is a mean over the vector; relevance adds up, so sum")
def _missing_mean(x: Tensor, slope: Tensor, metric: Tensor) -> Tensor:
    return metric - (x * slope).mean(-1)
