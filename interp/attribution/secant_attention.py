"""Two-point slopes of attention: queries and keys to scores, scores to pattern, pattern and values to z.

Δscores = mean(q) Δk + Δq mean(k),  Δpattern = ∫ J dt Δscores,  Δz = mean(pattern) Δv + Δpattern mean(v)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.attribution.scoring import Scoring
from interp.attribution.softmax_path import SoftmaxPath, plan
from interp.attribution.two_point import change, chord, norm_change
from interp.engine import block as B
from interp.models.parts import Attention, Norm


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
