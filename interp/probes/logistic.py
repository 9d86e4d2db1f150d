"""Logistic regression of many labellings of the same rows at once, by Newton's method.

Minimises, for each labelling, mean cross-entropy + l2 |w|² in units where the rows have variance 1: the
objective of `steering.estimators.logistic_probe`. Labels are 0 or 1, or shares between them. Exact and
deterministic; w lies in the span of the rows, so that no system is larger than the number of rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_STEPS, _HALVINGS, _ENOUGH = 50, 30, 1e-10
_MOST = 2**24  # numbers in the largest intermediate


def logistic(
    rows: Float[Tensor, "row d"], labels: Float[Tensor, "fit row"], l2: float = 1e-3
) -> tuple[Float[Tensor, "fit d"], Float[Tensor, "fit"]]:
    """Weights and biases on the raw rows: sigmoid(w · row + b) = P(label 1). In float64."""
    rows = rows.double()
    middle, scale = rows.mean(0), rows.std(0).square().mean().sqrt().clamp(min=1e-12)
    scaled = (rows - middle) / scale
    basis = torch.linalg.svd(scaled, full_matrices=False)[2] if rows.shape[1] > len(rows) else None
    design = scaled if basis is None else scaled @ basis.T  # [row, r]
    size = max(1, _MOST // (len(design) * (design.shape[1] + 1)))
    parts = [_newton(design, part, l2) for part in labels.double().split(size)]
    w = torch.cat([part[:, :-1] for part in parts])
    w = (w if basis is None else w @ basis) / scale
    return w, torch.cat([part[:, -1] for part in parts]) - w @ middle


def _newton(design: Tensor, labels: Tensor, l2: float) -> Float[Tensor, "fit r1"]:
    """Weights and, last, bias of every labelling."""
    x = torch.cat((design, torch.ones_like(design[:, :1])), 1)  # [row, r + 1]
    penalty = torch.full_like(x[0], l2)
    penalty[-1] = 0.0
    beta = torch.zeros((len(labels), x.shape[1]), dtype=x.dtype, device=x.device)
    eye = 1e-12 * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(_STEPS):
        p = torch.sigmoid(beta @ x.T)  # [fit, row]
        slope = (p - labels) @ x / len(x) + 2 * penalty * beta
        weight = p * (1 - p) / len(x)
        curve = (x.T * weight[:, None]) @ x + torch.diag(2 * penalty) + eye  # [fit, r + 1, r + 1]
        step = torch.linalg.solve(curve, slope)
        new = _halved(x, labels, penalty, beta, step)
        moved = float((new - beta).abs().max())
        beta = new
        if moved < _ENOUGH:
            break
    return beta


def _halved(x: Tensor, labels: Tensor, penalty: Tensor, beta: Tensor, step: Tensor) -> Tensor:
    """beta − share · step, the share halved until the loss of the labelling does not rise."""
    before = _loss(x, labels, penalty, beta)
    share = torch.ones_like(before)
    for _ in range(_HALVINGS):
        new = beta - share[:, None] * step
        worse = _loss(x, labels, penalty, new) > before + 1e-12
        if not bool(worse.any()):
            return new
        share = torch.where(worse, share / 2, share)
    return torch.where(worse[:, None], beta, new)


def _loss(x: Tensor, labels: Tensor, penalty: Tensor, beta: Tensor) -> Float[Tensor, "fit"]:
    logit = beta @ x.T
    cross = torch.nn.functional.softplus(logit) - labels * logit
    return cross.mean(1) + (penalty * beta.square()).sum(1)
