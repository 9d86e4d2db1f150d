"""Train probes on the tokens of prompts, one for each of several labellings of the same prompts.

1. Logistic regression on the mean token of each prompt (`logistic`), exact. For "mean" that is all.
2. For the other aggregations, start there, with q near 0 and the values shared among the heads, and minimise
   mean cross-entropy + l2 (|v|² + |q|²), full batch, in float64, in units where tokens have variance 1.
   By Adam with a falling step: a maximum over tokens has kinks, on which line searches stop. The best of the
   iterates is kept, for each labelling by itself; labellings do not influence one another.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.probes.aggregate import KINDS, Weights, scores
from interp.probes.logistic import logistic

_RATE = 0.05  # the first step of Adam
_NOISE = 0.1  # of the start of q and of the values of the heads, by coordinate, over √d


def train(
    kind: str,
    tokens: Float[Tensor, "prompt pos d"],
    real: Bool[Tensor, "prompt pos"],
    labels: Float[Tensor, "fit prompt"],
    *,
    heads: int = 1,
    l2: float = 1e-3,
    steps: int = 200,
    seed: int = 0,
) -> Weights:
    """Weights on the raw tokens. labels: 1 for the positive class. heads: of attention, multimax, rolling."""
    if kind not in KINDS:
        raise ValueError(f"the aggregation is {kind!r}; use one of {', '.join(KINDS)}.")
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be 1 or more.")
    tokens, labels = tokens.double(), labels.double()
    middle = tokens[real].mean(0)
    scale = tokens[real].std(0).square().mean().sqrt().clamp(min=1e-12)
    scaled = (tokens - middle) / scale
    share = real.to(scaled) / real.sum(1, keepdim=True)
    w, b = logistic(torch.einsum("ptd,pt->pd", scaled, share), labels, l2)
    if kind == "mean":
        return _raw(Weights(w[..., None], torch.zeros_like(w)[..., None], b), middle, scale)
    start = _start(w, b, 1 if kind == "ema" else heads, seed)
    return _raw(_minimised(kind, scaled, real, labels, start, l2, steps), middle, scale)


def _start(w: Tensor, b: Tensor, heads: int, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shape = (*w.shape[1:], heads)
    noise = [
        (_NOISE / w.shape[1] ** 0.5 * torch.randn(shape, generator=generator, dtype=w.dtype)).to(w.device)
        for _ in range(2)
    ]
    v = w[..., None] / heads + (noise[0] if heads > 1 else torch.zeros_like(noise[0]))
    return Weights(v, noise[1].expand_as(v), b)


def _minimised(
    kind: str, tokens: Tensor, real: Tensor, labels: Tensor, start: Weights, l2: float, steps: int
) -> Weights:
    with torch.inference_mode(False), torch.enable_grad():
        parts = [part.detach().clone().requires_grad_() for part in (start.v, start.q, start.b)]
        tokens, labels = tokens.detach().clone(), labels.clone()
        optimiser = torch.optim.Adam(parts, lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, _RATE / 100)
        best = [part.detach().clone() for part in parts]
        least = torch.full_like(start.b, torch.inf)
        for _ in range(steps + 1):
            optimiser.zero_grad()
            loss = _loss(kind, tokens, real, labels, Weights(parts[0], parts[1], parts[2]), l2)  # [fit]
            loss.sum().backward()
            better = loss.detach() < least
            least = torch.where(better, loss.detach(), least)
            for kept, part in zip(best, parts):
                kept[better] = part.detach()[better]
            optimiser.step()
            schedule.step()
    return Weights(best[0], best[1], best[2])


def _loss(
    kind: str, tokens: Tensor, real: Tensor, labels: Tensor, weights: Weights, l2: float
) -> Float[Tensor, "fit"]:
    found = scores(kind, tokens, real, weights)
    cross = (torch.nn.functional.softplus(found) - labels * found).mean(1)
    return cross + l2 * (weights.v.square().sum((1, 2)) + weights.q.square().sum((1, 2)))


def _raw(weights: Weights, middle: Tensor, scale: Tensor) -> Weights:
    """The same probes on tokens that are not scaled. A constant in a_t changes no attention."""
    v = weights.v / scale
    return Weights(v, weights.q / scale, weights.b - torch.einsum("fdh,d->f", v, middle))
