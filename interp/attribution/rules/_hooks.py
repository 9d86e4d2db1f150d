"""Rules as forward hooks: the value that the model computed, with other slopes.

    value.detach() + Σ c.detach() · (x - x.detach())

is `value` to the last bit, and its slope in each x is c. Nothing is computed a second time, and the model
is not changed. Where gradients are off the hooks do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.rules._gates import gate, tanh_ratio
from interp.models.hook_points import MLPPoints

Rule = Callable[[Tensor], Tensor | None]

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-5}  # of the largest value; below that 3 %


class RuleHook:
    """A rule at a hook point.

    asleep: how many sets of rules on the model have replaced it. ran: whether the present pass came by.
    unproved: whether it is still open that the model goes on with what the rule gives; `probe`, a zero added
    to that, tells.
    """

    def __init__(self, point: str, rule: Rule) -> None:
        self.point, self.rule = point, rule
        self.asleep, self.ran = 0, False
        self.unproved, self.probe = False, torch.zeros(())

    def __call__(self, tensor: Tensor, hook: Any) -> Tensor | None:
        self.ran = True
        if self.asleep or not torch.is_grad_enabled():
            return None
        out = self.rule(tensor)
        if out is None or not self.unproved:
            return out
        self.probe = out.new_zeros((), requires_grad=True)
        return out + self.probe


def straight_through(value: Tensor, *terms: tuple[Tensor | float, Tensor]) -> Tensor:
    """`value`, with slope c in x for every (c, x)."""
    out = value.detach()
    for coefficient, x in terms:
        if isinstance(coefficient, Tensor):
            coefficient = coefficient.detach()
        out = out + coefficient * (x - x.detach())
    return out


def constant(tensor: Tensor) -> Tensor:
    """Slope 0: the LN-rule on a scale, the AH-rule on a pattern."""
    return tensor.detach()


def halved(tensor: Tensor) -> Tensor:
    """Slope 1/2: each factor of a product carries half of its relevance."""
    return straight_through(tensor, (0.5, tensor))


class Kept:
    """The last tensor that passed a hook point."""

    tensor: Tensor

    def __call__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class Activation:
    """The Identity-rule at what an MLP's activation gives, from what it took."""

    def __init__(self, mlp: MLPPoints, name: str) -> None:
        self.mlp, self.name = mlp, name
        self.pre, self.linear = Kept(), Kept()
        self.checked = False

    def __call__(self, post: Tensor) -> Tensor:
        x, bias = self.pre.tensor, self.mlp.bias
        with torch.no_grad():
            c = gate(self.name, x)
            if self.mlp.linear is None:
                self._check(c * x, post)
                slopes = [(c, x)]
            else:
                up = self.linear.tensor
                slopes = [(c * up, x), (c * x, up)]
                self._check(slopes[1][0] * up + (0.0 if bias is None else bias), post)
        if bias is not None:
            slopes.append((torch.ones_like(bias), bias.expand_as(post)))
        return straight_through(post, *slopes)

    def _check(self, expected: Tensor, post: Tensor) -> None:
        """On the first pass: the activation is the one that the model's config names."""
        if self.checked or not post.numel():
            return
        self.checked = True
        _require_close(
            expected, post, f"{self.mlp.module} does not compute activation {self.name!r} as its config says"
        )


class Normed:
    """The LN-rule behind a norm without weights: its output, with slope 1/σ in the centred stream."""

    def __init__(self, module: str, rms: bool) -> None:
        self.module, self.rms = module, rms
        self.stream, self.scale = Kept(), Kept()
        self.checked = False

    def __call__(self, out: Tensor) -> Tensor:
        x, scale = self.stream.tensor, self.scale.tensor.detach()
        centred = x if self.rms else x - x.mean(-1, keepdim=True)
        if not self.checked:
            self.checked = True
            with torch.no_grad():
                expected = centred / scale
            _require_close(expected, out, f"{self.module} is not its input over its scale")
        return straight_through(out, ((1 / scale).to(out.dtype), centred))


class SoftMax:
    """The slope of softmax at a higher temperature: diag(p) - p pᵀ with p = softmax(scores / temperature)."""

    def __init__(self, module: str, temperature: float) -> None:
        self.module, self.temperature = module, temperature
        self.scores = Kept()
        self.checked = False

    def __call__(self, pattern: Tensor) -> Tensor:
        scores = self.scores.tensor
        hidden = torch.isneginf(scores).all(-1, keepdim=True)
        scores = scores.masked_fill(hidden, 0.0)
        if not self.checked:
            self.checked = True
            with torch.no_grad():
                expected = scores.softmax(-1).masked_fill(hidden, 0.0).to(pattern.dtype)
            _require_close(expected, pattern, f"{self.module}: the pattern is not the softmax of the scores")
        tempered = (scores / self.temperature).softmax(-1).masked_fill(hidden, 0.0).to(pattern.dtype)
        return straight_through(pattern, (self.temperature, tempered))


def capped(cap: float) -> Rule:
    """The Identity-rule on cap · tanh(logit / cap), which follows the hook point.

    The model will multiply with tanh's own slope, so the logit is given the ratio of the two. A logit so
    large that tanh rounds to 1 has no slope to mend: it gets none.
    """

    def rule(logit: Float[Tensor, "*batch vocab"]) -> Tensor:
        with torch.no_grad():
            u = logit / cap
            own = 1 - u.tanh() ** 2
            flat = own <= 0
            ratio = (tanh_ratio(u) / own.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)
        return straight_through(logit, (ratio, logit))

    return rule


def _require_close(expected: Float[Tensor, "*any"], found: Float[Tensor, "*any"], what: str) -> None:
    with torch.no_grad():
        gap, size = float((expected - found).abs().max()), float(found.abs().max())
    if not gap <= _TOLERANCE.get(found.dtype, 0.03) * (1e-6 + size):
        raise ValueError(
            f"{what}: the values differ by {gap:.2g}. The rule would give slopes of another model; leave the "
            "family out, or use a method without rules (atp, ig)."
        )
