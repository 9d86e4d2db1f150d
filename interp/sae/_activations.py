"""From pre-activations to features: the activation functions of published dictionaries.

| activation | f | |
|---|---|---|
| relu | max(h, 0) | |
| jumprelu | max(h, 0) · 1[h > θ] | θ by feature |
| jump | h · 1[h > θ] | circuit-tracer's form: with θ < 0 features may be negative |
| topk | the k largest h, then ReLU | fewer than k may be on |
| abstopk | the k largest of absolute value, sign kept | features may be negative |
| groupmax | of k contiguous groups the largest of max(h, 0) | |
| gated | 1[z W + b_gate > 0] · max(z (W ⊙ exp(r)) + b_mag, 0) | Rajamanoharan et al. 2404.16014 |
| matching_pursuit | greedy, by the largest product with what is left | |

JumpReLU: 2407.14435. Top-k: Gao et al. 2406.04093.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ACTIVATIONS = ("relu", "jumprelu", "jump", "topk", "abstopk", "groupmax", "gated", "matching_pursuit")
CHOOSING = ("topk", "abstopk", "groupmax")  # need k


@dataclass(frozen=True)
class Pursuit:
    """When matching pursuit stops: what is left is shorter than `residual`, or after `iterations` (d) steps.

    once: it also stops at a step that chooses no new feature.
    """

    residual: float = 0.0
    iterations: int | None = None
    once: bool = True


@dataclass(frozen=True, eq=False)
class Gate:
    """The tensors of a gated dictionary, all [feature]."""

    r_mag: Float[Tensor, "feature"]
    b_mag: Float[Tensor, "feature"]
    b_gate: Float[Tensor, "feature"]


def activate(
    h: Float[Tensor, "*any feature"], activation: str, threshold: Tensor | None = None, k: int | None = None
) -> Float[Tensor, "*any feature"]:
    """Features of pre-activations."""
    if activation == "relu":
        return h.relu()
    if activation in ("jumprelu", "jump") and threshold is not None:
        kept = h.relu() if activation == "jumprelu" else h
        return kept * (h > threshold.to(h))
    if k is None:
        raise ValueError(f"activation {activation!r} needs k, how many features may be on.")
    if activation == "groupmax":
        return _largest_of_groups(h.relu(), k)
    chosen = (h.abs() if activation == "abstopk" else h).topk(k, -1).indices
    values = h.gather(-1, chosen)
    return torch.zeros_like(h).scatter(-1, chosen, values if activation == "abstopk" else values.relu())


def _largest_of_groups(h: Tensor, k: int) -> Tensor:
    groups = h.unflatten(-1, (k, -1))  # [..., group, feature of the group]
    values, index = groups.max(-1, keepdim=True)
    return torch.zeros_like(groups).scatter(-1, index, values).flatten(-2)


def gated(z: Float[Tensor, "*any d"], W_enc: Float[Tensor, "d feature"], gate: Gate) -> Tensor:
    """Features of a gated dictionary: one product serves gate and magnitude."""
    product = z @ W_enc
    magnitude = product * gate.r_mag.to(z).exp() + gate.b_mag.to(z)
    return (product + gate.b_gate.to(z) > 0) * magnitude.relu()


def pursue(z: Float[Tensor, "*any d"], atoms: Float[Tensor, "feature d"], until: Pursuit) -> Tensor:
    """Matching pursuit: at each step the feature with the largest positive product takes its share away."""
    left = z.reshape(-1, z.shape[-1]).clone()
    out = left.new_zeros(len(left), len(atoms))
    going = torch.ones(len(left), dtype=torch.bool, device=left.device)
    step, limit = 0, atoms.shape[1] if until.iterations is None else until.iterations
    while step < limit and bool(going.any()):
        values, index = (left @ atoms.T).relu().max(1, keepdim=True)
        values = values * going[:, None]
        before = out != 0
        out = out.scatter_add(1, index, values)
        left = left - values * atoms[index[:, 0]]
        stuck = ((out != 0) == before).all(1) if until.once else values[:, 0] == 0
        going = going & ~stuck & (left.norm(dim=-1) >= until.residual)
        step += 1
    return out.view(*z.shape[:-1], -1)
