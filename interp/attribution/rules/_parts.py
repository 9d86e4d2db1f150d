"""Rules as parts of a model: the same values, with other slopes.

`ruled_weights` gives the weights of the engine's own forward the norms, gates and products of a set of rules.
It does what the hooks of `relevance_rules` do to the model itself, and those are its oracle; where it is used
the trust check has shown that the parts are the model's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from interp.attribution.rules._gates import gate, tanh_ratio
from interp.methods import Rules
from interp.models.parts import MLP, Attention, Norm, Weights

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class FrozenNorm(Norm):
    """The LN-rule: the scale is a constant, the centring is not."""

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = super().__call__(x)
            exact = x if x.dtype == torch.float64 else x.float()
            centred = exact - exact.mean(-1, keepdim=True) if self.centred else exact
            inverse = (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return _Frozen.apply(value, x, self.bias, self.gain, inverse, self.centred)  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class RuledAttention(Attention):
    """Rules of the pattern and of the two products that it stands between."""

    constant: bool  # AH
    shared: bool  # qkv
    temperature: float

    @property
    def fused(self) -> bool:
        return super().fused and not self.constant and not self.shared and self.temperature == 1.0

    def weigh(self, scores: Tensor) -> Tensor:
        if self.constant:
            with torch.no_grad():
                return scores.softmax(-1)
        if self.temperature != 1.0:
            return _Tempered.apply(scores, self.temperature)  # type: ignore[no-any-return]
        return scores.softmax(-1)

    def factor(self, x: Tensor) -> Tensor:
        return _Halved.apply(x) if self.shared else x  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class RuledMLP(MLP):
    """The Identity-rule of the activation, the Half-rule of the product."""

    name: str  # of the activation
    identity: bool
    half: bool

    def hidden(self, pre: Tensor, linear: Tensor | None) -> Tensor:
        if not self.identity:
            if self.half and linear is not None:
                pre, linear = _Halved.apply(pre), _Halved.apply(linear)  # type: ignore[assignment]
            return super().hidden(pre, linear)
        if linear is None:
            with torch.no_grad():
                value, slope = self.act(pre), gate(self.name, pre)
            return _Linear.apply(value, pre, slope)  # type: ignore[no-any-return]
        share = 0.5 if self.half else 1.0
        with torch.no_grad():
            slope = gate(self.name, pre)
            out = (slope * pre, slope * linear)
            value = self.act(pre) * linear
        hidden: Tensor = _Linear.apply(value, pre, share * out[1], linear, share * out[0])  # type: ignore[assignment]
        return hidden if self.b_in is None else hidden + self.b_in


@dataclass(frozen=True, eq=False)
class RuledWeights(Weights):
    """The Identity-rule of the soft cap on the logits; one so large that tanh rounds to 1 has no slope."""

    def capped(self, logits: Tensor) -> Tensor:
        if self.soft_cap <= 0:
            return logits
        with torch.no_grad():
            u = logits / self.soft_cap
            slope = tanh_ratio(u).masked_fill(u.tanh() ** 2 >= 1, 0.0)
            value = self.soft_cap * u.tanh()
        return _Linear.apply(value, logits, slope)  # type: ignore[no-any-return]


def ruled_weights(weights: Weights, rules: Rules | None, act_fn: str | None) -> Weights:
    """The weights under a set of rules. act_fn: the name of the model's activation."""
    if rules is None:
        return weights
    constant, frozen = rules.ah is not False, rules.ln is not False
    identity, half = rules.identity is not False, rules.half is not False
    blocks = []
    for block in weights.blocks:
        attn = _as(
            RuledAttention,
            block.attn,
            constant=constant,
            shared=rules.qkv,
            temperature=float(rules.temperature),
        )
        mlp = block.mlp
        if mlp is not None:
            mlp = _as(RuledMLP, mlp, name=str(act_fn), identity=identity, half=half)
            mlp = _frozen(mlp, "norm", "out_norm") if frozen else mlp
        block = replace(block, attn=_frozen(attn, "q_norm", "k_norm") if frozen else attn, mlp=mlp)
        blocks.append(_frozen(block, "attn_norm", "attn_out_norm") if frozen else block)
    out = replace(weights, blocks=tuple(blocks))
    out = _frozen(out, "final_norm") if frozen else out
    return _as(RuledWeights, out) if identity else out


def frozen_norm(norm: Norm) -> FrozenNorm:
    """The norm with a constant scale."""
    return _as(FrozenNorm, norm)


def _frozen(part: Part, *names: str) -> Part:
    """A part whose norms of these names have constant scales."""
    norms = {name: getattr(part, name) for name in names}
    frozen = {name: None if norm is None else _as(FrozenNorm, norm) for name, norm in norms.items()}
    return replace(part, **frozen)  # type: ignore[type-var]


def _as(kind: type[Part], part: Any, **more: Any) -> Part:
    """A part as one of another kind that has its fields, and more."""
    return kind(**{each.name: getattr(part, each.name) for each in fields(part)}, **more)


class _Frozen(torch.autograd.Function):
    """The value of a norm, with the slope of one whose scale is constant."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        x: Tensor,
        bias: Tensor | None,
        gain: Tensor | None,
        inverse: Tensor,
        centred: bool,
    ) -> Tensor:
        ctx.save_for_backward(gain, inverse)
        ctx.centred, ctx.ndim = centred, 0 if bias is None else bias.ndim
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (gain, inverse) = slopes, ctx.saved_tensors
        of_bias = slope.sum(tuple(range(slope.ndim - ctx.ndim))) if ctx.needs_input_grad[2] else None
        out = (slope if gain is None else slope * gain) * inverse
        out = out - out.mean(-1, keepdim=True) if ctx.centred else out
        return None, out.to(slope.dtype), of_bias, None, None, None


class _Linear(torch.autograd.Function):
    """A value whose slope in each of one or two tensors is given: value, x, slope in x, and so on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *terms: Tensor) -> Tensor:
        ctx.save_for_backward(*terms[1::2])
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        out: list[Tensor | None] = [None]
        for slope in ctx.saved_tensors:
            out += [slopes[0] * slope, None]
        return tuple(out)


class _Halved(torch.autograd.Function):
    """Each factor of a product carries half of its relevance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return slopes[0] / 2


class _Tempered(torch.autograd.Function):
    """The softmax of scores, with the slope of one at a higher temperature."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward((scores / temperature).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (pattern,) = ctx.saved_tensors
        weighted = pattern * slopes[0]
        return weighted - pattern * weighted.sum(-1, keepdim=True), None
