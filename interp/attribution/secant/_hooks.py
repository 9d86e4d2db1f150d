"""Hooks that give an unmodified model two-point slopes, its values unchanged.

`watch` runs with the source and keeps what the slopes need of it; `attached` runs with the base, and every
norm, activation and attention then hands on its own value with the slope between both runs.

Hooks that replace a tensor stand before the taps, those that keep one (`gates`) behind them: a bridge gives
every hook a view of its own, and a slope only reaches a tap that lies on the path.

Two-point slopes of attention: queries and keys to scores, scores to pattern, pattern and values to z.

Δscores = mean(q) Δk + Δq mean(k),  Δpattern = ∫ J dt Δscores,  Δz = mean(pattern) Δv + Δpattern mean(v)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.attribution._by_hooks import Gates, Hook
from interp.attribution._scoring import Scoring, scorings
from interp.attribution.secant._slopes import SoftmaxPath, change, chord, norm_change, plan
from interp.engine import block as B
from interp.models import ACTIVATIONS, Anatomy, Model, stream_norms
from interp.models.hook_points import MLPPoints, mlp_points
from interp.models.parts import Attention, Norm
from interp.places import hook_name

_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
_HEADS = ("q", "k", "v")


class TwoRuns:
    """The source run's values, and the hooks that use them in the base run."""

    def __init__(self, model: Model, facts: Anatomy) -> None:
        self.model, self.facts = model, facts
        self.mlps = mlp_points(model)
        self.norms = stream_norms(model)
        self.scorings = scorings(model, facts)
        self.source: dict[Any, Tensor] = {}
        self.here: dict[Any, Tensor] = {}  # the base run's, in the graph
        self.norm_inputs: dict[int, list[Tensor]] = {}
        self.residual = 0.0
        self._heads = [(name, layer) for layer in range(facts.n_layers) for name in _HEADS]
        self._inner = [(mlp.pre, ("pre", mlp.layer)) for mlp in self.mlps]
        self._inner += [(mlp.linear, ("linear", mlp.layer)) for mlp in self.mlps if mlp.linear is not None]

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Keep the source run's values; run it without a graph."""
        points = [(hook_name(*key), key) for key in self._heads] + self._inner
        with ExitStack() as stack:
            for number, (module, _) in enumerate(self.norms):
                self.norm_inputs[number] = []
                stack.callback(module.register_forward_hook(partial(self._watch_norm, number)).remove)
            hooks = [(name, partial(_keep, self.source, key)) for name, key in points]
            stack.enter_context(self.model.hooks(fwd_hooks=hooks))
            yield

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Two-point slopes in every step of the base run."""
        with ExitStack() as stack:
            for number, (module, norm) in enumerate(self.norms):
                calls = iter(self.norm_inputs[number])
                hook = partial(self._norm, norm, calls)
                stack.callback(module.register_forward_hook(hook).remove)
            hooks: list[Hook] = [(name, partial(_keep, self.here, key)) for name, key in self._inner]
            for layer in range(self.facts.n_layers):
                hooks.append((hook_name("pattern", layer), partial(self._pattern, layer)))
                hooks.append((hook_name("z", layer), partial(self._z, layer)))
            hooks += [(mlp.post, partial(self._post, mlp)) for mlp in self.mlps]
            stack.enter_context(self.model.hooks(fwd_hooks=hooks))
            yield

    @property
    def gates(self) -> Gates:
        """Behind the taps: what attention reads further on."""
        keys = [*self._heads, *(("pattern", layer) for layer in range(self.facts.n_layers))]
        return {key: partial(_keep, self.here, key) for key in keys}

    def _watch_norm(self, number: int, module: Any, inputs: tuple, output: Tensor) -> None:
        self.norm_inputs[number].append(inputs[0].detach())

    def _norm(
        self, norm: Norm, calls: Iterator[Tensor], module: Any, inputs: tuple, output: Tensor
    ) -> Tensor:
        x = inputs[0]
        with torch.no_grad():
            gap = float((norm(x).to(output.dtype) - output).abs().max())
            size = 1 + float(output.abs().max())
        if not gap <= _TOLERANCE.get(output.dtype, 0.1) * size:
            raise ValueError(
                f"a {type(module).__name__} of the model computes something else than its weights say (by "
                f"{gap:.2g}). Use a method that needs only slopes (atp, ig, relp)."
            )
        return output.detach() + norm_change(norm, x, next(calls)).to(output.dtype)

    def _pattern(self, layer: int, tensor: Tensor, hook: Any) -> Tensor:
        q, k = (self._pair(name, layer) for name in ("q", "k"))
        out, residual = pattern_path(self.scorings[layer], q, k, tensor)
        with torch.no_grad():
            self.source["pattern", layer] = self.scorings[layer].scores(q.x1, k.x1).softmax(-1)
        self.residual = max(self.residual, residual)
        return out

    def _z(self, layer: int, tensor: Tensor, hook: Any) -> Tensor:
        if ("pattern", layer) not in self.here:
            raise ValueError(
                f"layer {layer}: attention hands over its pattern after it has used it, or not at all, so "
                "method 'secant' cannot give it slopes. Use a method that needs only slopes (atp, ig), or "
                "load the model with eager attention, in compatibility mode."
            )
        return z_path(self.scorings[layer].attn, self._pair("pattern", layer), self._pair("v", layer), tensor)

    def _post(self, mlp: MLPPoints, tensor: Tensor, hook: Any) -> Tensor:
        act: Callable[[Tensor], Tensor] = ACTIVATIONS[str(self.facts.act_fn)]
        gate = self._pair("pre", mlp.layer)
        delta = chord(act, gate.x, gate.x1) * change(gate.x)
        if mlp.linear is None:
            return tensor.detach() + delta
        up = self._pair("linear", mlp.layer)
        with torch.no_grad():
            mean = (act(gate.x) + act(gate.x1)) / 2
        return tensor.detach() + up.mean * delta + mean * change(up.x)

    def _pair(self, name: str, layer: int) -> Pair:
        return Pair(self.here[name, layer], self.source[name, layer])


def _keep(kept: dict[Any, Tensor], key: Any, tensor: Tensor, hook: Any = None) -> Tensor:
    kept[key] = tensor if torch.is_grad_enabled() else tensor.detach()
    return tensor


@dataclass(frozen=True, eq=False)
class Pair:
    """One activation in both runs: `x` in the graph, whose value is the base run's, and the source's `x1`."""

    x: Tensor
    x1: Tensor

    @property
    def mean(self) -> Tensor:
        return (self.x.detach() + self.x1) / 2


def pattern_path(scoring: Scoring, q: Pair, k: Pair, pattern: Tensor) -> tuple[Tensor, float]:
    """The base pattern with two-point slopes in q and k, and the residual of the softmax."""
    scoring.check(q.x.detach(), k.x.detach(), pattern.detach())
    attn = scoring.attn
    with torch.no_grad():
        start = scoring.scores(q.x, k.x)
        delta = (scoring.scores(q.x1, k.x1) - start).masked_fill(torch.isinf(start), 0.0)
        rows, deltas = start.flatten(0, -2), delta.flatten(0, -2)
        panels, residual = plan(rows, deltas)
    scores = _scores_change(attn, _finished(attn, q, attn.q_norm), _finished(attn, k, attn.k_norm))
    scores = scores.masked_fill(torch.isinf(start), 0.0)
    out = SoftmaxPath.apply(pattern.detach(), scores.to(pattern.dtype), rows, deltas, panels)
    return out, residual  # type: ignore[return-value]


def z_path(attn: Attention, pattern: Pair, v: Pair, z: Tensor) -> Tensor:
    """The base z with two-point slopes in the pattern and the values."""
    if attn.clip is not None:
        v = _clipped(attn.clip, v)
    return z.detach() + B.mix(change(pattern.x), v.mean) + B.mix(pattern.mean, change(v.x))


def _scores_change(attn: Attention, q: Pair, k: Pair) -> Tensor:
    """Change of the scores before the mask, from finished queries and keys."""
    delta = B.products(attn, change(q.x), k.mean) + B.products(attn, q.mean, change(k.x))
    if attn.soft_cap > 0:
        raw = [B.products(attn, *pair) for pair in ((q.x.detach(), k.x.detach()), (q.x1, k.x1))]
        delta = chord(lambda x: attn.soft_cap * torch.tanh(x / attn.soft_cap), *raw) * delta
    return delta


def _finished(attn: Attention, pair: Pair, norm: Norm | None) -> Pair:
    """From what hook_q or hook_k sees to what the scores use: norm, clip, rotation."""
    if norm is not None:
        pair = _normed(pair, norm, attn.whole_norm)
    if attn.clip is not None:
        pair = _clipped(attn.clip, pair)
    return Pair(B.turned(attn, pair.x), B.turned(attn, pair.x1))


def _normed(pair: Pair, norm: Norm, whole: bool) -> Pair:
    flat = [t.flatten(2) if whole else t for t in (pair.x, pair.x1)]
    with torch.no_grad():
        x0, x1 = norm(flat[0]), norm(flat[1])
    return Pair((x0 + norm_change(norm, *flat)).view(pair.x.shape), x1.view(pair.x.shape))


def _clipped(limit: float, pair: Pair) -> Pair:
    clip = lambda x: x.clamp(-limit, limit)  # noqa: E731
    slope = chord(clip, pair.x, pair.x1)
    return Pair(clip(pair.x.detach()) + slope * change(pair.x), clip(pair.x1))
