"""Two-point slopes of a metric in the logits: the mean gradient on the straight path between both runs'.

Exact for a metric that is linear in the logits. Otherwise panels of Gauss-Legendre points are doubled until
the slope times the change gives the metric's own change; what is left is the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from interp.attribution.secant._slopes import change, chord

_TOLERANCE = 1e-9
_SCHEDULE = ((2, 1), (8, 1), (8, 2), (8, 4), (8, 8), (8, 16), (8, 32))  # (order, panels)


def metric_path(
    measure: Callable[[Tensor], Tensor], logits: Tensor, other: Tensor, soft_cap: float
) -> tuple[Tensor, float]:
    """Metrics [prompt, metric] of `logits` with two-point slopes in them, and the residual.

    measure: from picked logits to [prompt, metric]. other: the source run's logits. soft_cap: of the model's
    output, tanh-capped, or at most 0: the slope is taken through the cap too.
    """
    start, delta = logits.detach(), (other - logits).detach()
    with torch.no_grad():
        values = measure(start)
        gaps = measure(start + delta) - values
    moved = _through_cap(logits, other, soft_cap)
    columns, residual = [], 0.0
    for number in range(values.shape[1]):
        slope, gap = _mean_slope(lambda x, n=number: measure(x)[:, n], start, delta, gaps[:, number])
        residual = max(residual, gap)
        columns.append((slope * moved).flatten(1).sum(1))
    return values + torch.stack(columns, -1).double(), residual


def _mean_slope(
    measure: Callable[[Tensor], Tensor], start: Tensor, delta: Tensor, gap: Tensor
) -> tuple[Tensor, float]:
    residual, slope = float("inf"), start
    for order, panels in _SCHEDULE:
        slope = torch.zeros_like(start)
        for t, weight in _nodes(order, panels):
            x = (start + t * delta).requires_grad_(True)
            slope += weight * torch.autograd.grad(measure(x).sum(), x)[0]
        found = (slope.double() * delta.double()).flatten(1).sum(1)
        residual = float((found - gap).abs().max())
        if residual <= _TOLERANCE * (1 + float(gap.abs().max())):
            break
    return slope, residual


def _nodes(order: int, panels: int) -> Iterator[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    for panel in range(panels):
        for node, weight in zip(nodes.tolist(), weights.tolist()):
            yield (panel + (node + 1) / 2) / panels, weight / 2 / panels


def _through_cap(logits: Tensor, other: Tensor, cap: float) -> Tensor:
    """The change of the logits; under a cap y = c tanh(x / c) with the chord of tanh instead of its slope."""
    if cap <= 0:
        return change(logits)
    inner = [torch.atanh((y.detach() / cap).clamp(-1 + 1e-7, 1 - 1e-7)) * cap for y in (logits, other)]
    local = 1 - (logits.detach() / cap) ** 2  # what the model's own graph multiplies with
    ratio = chord(lambda x: cap * torch.tanh(x / cap), *inner) / local.clamp(min=1e-7)
    return ratio * change(logits)
