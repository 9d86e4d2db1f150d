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
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
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
