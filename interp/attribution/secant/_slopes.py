"""Slopes between two points, of the steps a transformer is made of.

f(x1) - f(x0) = slope · (x1 - x0) exactly, where a gradient has only f'(x0). Every function here is given the
tensor `x` in the graph, whose value is x0, and the other run's value x1, and returns the linear change that
the slope makes of x - x0: zero in value, the slope in the backward pass.

| step         | change                                                                       |
|--------------|------------------------------------------------------------------------------|
| elementwise  | (f(x1) - f(x0)) / (x1 - x0) · Δx, with f' at the middle where the two meet   |
| product      | mean(b) Δa + mean(a) Δb                                                      |
| norm         | mean(s^-1/2) Δx + mean(x) Δ(s^-1/2), s = mean(x²) + eps, Δs = mean((x1 + x0) Δx) |

DeepLIFT's rescale rule (Shrikumar et al. 2017, 1704.02685) with products shared evenly.

The slope of a softmax between two points: its Jacobian averaged over the straight path between the scores.

    pattern(s1) - pattern(s0) = ∫ J(s0 + t (s1 - s0)) dt · (s1 - s0),   J = diag(p) - p pᵀ

The integral has no closed form. Gauss-Legendre with 8 points on panels of equal length, doubled row by row
until the identity above holds to a tolerance: the scores of a head that switches from one token to another
pass through a narrow window of t, and a fixed rule would miss it. What is left of the identity is the
residual that a result reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.parts import Norm

Elementwise = Callable[[Tensor], Tensor]


def change(x: Tensor) -> Tensor:
    """x - x0: zero, with slope 1 in x."""
    return x - x.detach()


def chord(f: Elementwise, x0: Float[Tensor, "*any"], x1: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Slope of an elementwise function between two points; its derivative in the middle where they meet."""
    x0, x1 = x0.detach(), x1.detach()
    gap = x1 - x0
    close = gap.abs() <= torch.finfo(gap.dtype).eps ** 0.5 * (1 + (x0.abs() + x1.abs()) / 2)
    slope = (f(x1) - f(x0)) / gap.masked_fill(close, 1.0)
    return torch.where(close, _derivative(f, (x0 + x1) / 2), slope) if bool(close.any()) else slope


def _derivative(f: Elementwise, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(f(x).sum(), x)[0]


def norm_change(
    norm: Norm, x: Float[Tensor, "*any d"], x1: Float[Tensor, "*any d"]
) -> Float[Tensor, "*any d"]:
    """The change of a norm's output. Computed in float32 or better."""
    wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    points = [_centred(norm, point.to(wide)) for point in (x.detach(), x1.detach())]
    squares = [point.pow(2).mean(-1, keepdim=True) + norm.eps for point in points]
    roots = [square.sqrt() for square in squares]
    delta = _centred(norm, change(x).to(wide))
    inverse = (1 / roots[0] + 1 / roots[1]) / 2
    slope = -1 / (roots[0] * roots[1] * (roots[0] + roots[1]))  # of s^-1/2
    total = points[0] + points[1]
    square_change = (total * delta).mean(-1, keepdim=True)
    out = inverse * delta + total / 2 * slope * square_change
    return out if norm.gain is None else out * norm.gain


def _centred(norm: Norm, x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True) if norm.centred else x


ORDER = 8
MOST_PANELS = 1024
_TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-6}


def mean_jacobian(
    start: Float[Tensor, "row key"],
    delta: Float[Tensor, "row key"],
    vector: Float[Tensor, "row key"],
    panels: int,
) -> Float[Tensor, "row key"]:
    """∫ J(start + t delta) dt · vector by `panels` panels. J is symmetric, so this is its transpose too."""
    nodes, weights = np.polynomial.legendre.leggauss(ORDER)
    out = torch.zeros_like(vector)
    for panel in range(panels):
        for node, weight in zip(nodes.tolist(), weights.tolist()):
            p = (start + (panel + (node + 1) / 2) / panels * delta).softmax(-1)
            weighted = p * vector
            out += weight / 2 / panels * (weighted - p * weighted.sum(-1, keepdim=True))
    return out


def plan(
    start: Float[Tensor, "row key"], delta: Float[Tensor, "row key"]
) -> tuple[Int[Tensor, "row"], float]:
    """The number of panels each row needs, and the largest residual left."""
    panels = torch.ones(len(start), dtype=torch.int64, device=start.device)
    exact = (start + delta).softmax(-1) - start.softmax(-1)
    tolerance = _TOLERANCE.get(start.dtype, 1e-2)
    open_rows, residual, count = torch.arange(len(start), device=start.device), 0.0, 1
    while True:
        found = mean_jacobian(start[open_rows], delta[open_rows], delta[open_rows], count)
        gap = (found - exact[open_rows]).abs().amax(-1)
        late = gap > tolerance
        residual = max(residual, float(gap[~late].amax()) if bool((~late).any()) else 0.0)
        if not bool(late.any()):
            return panels, residual
        if count == MOST_PANELS:
            return panels, max(residual, float(gap.amax()))
        open_rows, count = open_rows[late], 2 * count
        panels[open_rows] = count


class SoftmaxPath(torch.autograd.Function):
    """The pattern, whose slope in the scores is the mean Jacobian."""

    @staticmethod
    def forward(
        ctx: Any, pattern: Tensor, scores: Tensor, start: Tensor, delta: Tensor, panels: Tensor
    ) -> Tensor:
        ctx.save_for_backward(start, delta, panels)
        return pattern.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor, None, None, None]:
        start, delta, panels = ctx.saved_tensors
        vector = slopes[0].to(start.dtype).reshape(start.shape)
        out = torch.empty_like(start)
        for count in panels.unique().tolist():
            rows = (panels == count).nonzero()[:, 0]
            out[rows] = mean_jacobian(start[rows], delta[rows], vector[rows], count)
        return None, out.reshape(slopes[0].shape), None, None, None
