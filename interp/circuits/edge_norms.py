"""A norm's slope, applied backwards in closed form: from the slope in its output to the slope in its input.

For x centred (LayerNorm) or not (RMSNorm), s = sqrt(mean(x²) + eps), u = x / s, gain w, and C the centring:

| slopes              | in the input                                                                  |
|---------------------|-------------------------------------------------------------------------------|
| gradient            | C (g w − u mean(u g w)) / s                                                   |
| LN-rule, s constant | C (g w) / s                                                                   |
| secant              | C (h g w + k t mean(t g w)), h = mean of 1/s, t = x + x₁, k = −1/(2 s s₁ (s + s₁)) |

One call serves all readers of a layer, which share the norm.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.models.parts import Norm

KINDS = ("gradient", "frozen", "secant")


def pull_back(
    norm: Norm | None,
    x: Float[Tensor, "prompt pos d"],
    slope: Float[Tensor, "reader prompt pos d"],
    kind: str = "gradient",
    other: Float[Tensor, "prompt pos d"] | None = None,
) -> Float[Tensor, "reader prompt pos d"]:
    """The slope in what a norm reads, x, from the slope in what it gives. `other`: x of the source run."""
    if norm is None:
        return slope
    if norm.gain is not None:
        slope = slope * norm.gain
    x, scale = _point(norm, x)
    if kind == "secant" and other is not None:
        found = _secant(x, scale, *_point(norm, other), slope)
    else:
        found = slope / scale
        if kind == "gradient":
            unit = x / scale
            found = found - (unit / scale) * (slope * unit).mean(-1, keepdim=True)
    return found - found.mean(-1, keepdim=True) if norm.centred else found


def _secant(x: Tensor, scale: Tensor, other: Tensor, other_scale: Tensor, slope: Tensor) -> Tensor:
    inverse = (1 / scale + 1 / other_scale) / 2
    curve = -1 / (2 * scale * other_scale * (scale + other_scale))
    total = x + other
    return inverse * slope + curve * total * (total * slope).mean(-1, keepdim=True)


def _point(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as the norm scales it, and its scale."""
    x = x - x.mean(-1, keepdim=True) if norm.centred else x
    return x, (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
