"""Gates: random numbers from 0 to 1, differentiable in a parameter θ that says how open they are.

| gate          | a sample                                                      | open with probability |
|---------------|---------------------------------------------------------------|-----------------------|
| hard-concrete | clamp(σ((logit(u) + θ) / β) (r − l) + l, 0, 1), u uniform      | σ(θ − β log(−l / r))   |
| uniform       | uniform with probability p (1 − p), else 1 or 0; mean p = σ(θ) | p                     |

Hard concrete: Louizos et al. 2018 (1712.01312), as in subnetwork probing (Cao et al. 2021) and edge pruning
(Bhaskar et al. 2406.16778), β = 2/3, l = −0.1, r = 1.1.

Uniform gradient sampling: Li & Janson 2024 (2409.09951). The slope of the loss in a share m, averaged over
uniform m, is the loss at 1 minus the loss at 0, and that is the slope of the expected loss in p. Only uniform
samples tell of it: dividing by their probability p (1 − p), and multiplying by dp/dθ = p (1 − p), leaves the
slope in m for samples that are uniform, and 0 for others.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
KINDS = ("hard-concrete", "uniform")
START = {"hard-concrete": 2.0, "uniform": 1.0}  # θ at first: nearly all open, and with a slope
_SHIFT = BETA * math.log(-LOW / HIGH)


def sample(
    kind: str, theta: Float[Tensor, "gate"], n: int, generator: torch.Generator
) -> Float[Tensor, "sample gate"]:
    """n independent samples of every gate."""
    u = torch.rand(n, len(theta), generator=generator, dtype=torch.float64).to(theta)
    if kind == "uniform":
        return _uniform(theta, u, torch.rand(u.shape, generator=generator, dtype=torch.float64).to(theta))
    u = u.clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((u.log() - (1 - u).log() + theta) / BETA)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def open_share(kind: str, theta: Float[Tensor, "gate"]) -> Float[Tensor, "gate"]:
    """The probability that a gate is open, differentiable."""
    return torch.sigmoid(theta if kind == "uniform" else theta - _SHIFT)


def _uniform(theta: Tensor, u: Tensor, level: Tensor) -> Tensor:
    """`u` decides what each gate is: 1, uniform (`level`), or 0."""
    p = torch.sigmoid(theta.detach())
    between = p * (1 - p)
    opened = u < p - between / 2
    drawn = ~opened & (u < p + between / 2)
    value = torch.where(drawn, level, opened.to(theta.dtype))
    return value + drawn.to(theta.dtype) * (theta - theta.detach())
