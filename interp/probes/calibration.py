"""Probabilities that mean what they say: Platt scaling, and the expected calibration error.

P(positive) = sigmoid(slope · score + intercept), fitted to scores of held-out prompts, with Platt's smoothed
targets, (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2) (Platt 1999): no probability comes nearer to 1 than so few
prompts can show. The error of the scaled probabilities is measured by turns: scaled on one half of the
held-out prompts, measured on the other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.probes._train import logistic
from interp.probes.splits import hold_out

_BINS = 10


def platt(scores: Float[Tensor, "prompt"], labels: Float[Tensor, "prompt"]) -> tuple[float, float]:
    """Slope and intercept. The slope is 0 where higher scores do not go with the positive class."""
    up, down = float(labels.sum()), float((1 - labels).sum())
    targets = torch.where(labels > 0.5, (up + 1) / (up + 2), 1 / (down + 2)).double()
    slope, intercept = (
        float(x) for x in (part.squeeze() for part in logistic(scores[:, None], targets[None], 1e-6))
    )
    if slope > 0:
        return slope, intercept
    mean = targets.mean()
    return 0.0, float(torch.log(mean / (1 - mean)))


def expected_calibration_error(
    probabilities: Float[Tensor, "prompt"], labels: Float[Tensor, "prompt"], bins: int = _BINS
) -> float:
    """Mean over prompts of |share of positives − mean probability| in their bin; bins of equal width."""
    if bins < 1:
        raise ValueError(f"bins is {bins}; use 1 or more.")
    p, y = probabilities.double(), labels.double()
    which = (p * bins).long().clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=p.device).index_add_(0, which, y - p)
    return float(gap.abs().sum() / len(p))


def calibrated_error(
    scores: Float[Tensor, "prompt"],
    labels: Float[Tensor, "prompt"],
    seed: int = 0,
    units: Int[Tensor, "prompt"] | None = None,
) -> float:
    """Expected calibration error after Platt scaling, each half of the prompts scaled by the other.

    units: prompts that stay together. nan where a class has only one unit, so that no half is without it.
    """
    half = _halves(labels, seed) if units is None else _unit_halves(labels, units, seed)
    if half is None:
        return float("nan")
    p = torch.empty_like(scores, dtype=torch.float64)
    for part in (half, ~half):
        slope, intercept = platt(scores[~part], labels[~part])
        p[part] = torch.sigmoid(slope * scores[part].double() + intercept)
    return expected_calibration_error(p, labels)


def _halves(labels: Tensor, seed: int) -> Tensor:
    """Half of each class, drawn."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for side in (0, 1):
        rows = (labels.round() == side).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator)
        chosen[rows[order[: len(rows) // 2]]] = True
    return chosen


def _unit_halves(labels: Tensor, units: Tensor, seed: int) -> Tensor | None:
    """Half of each class in whole units; None where there is no such half."""
    if len(units.unique()) == len(units):
        return _halves(labels, seed)
    label = labels.round().cpu() > 0.5
    order = label.logical_not().long().argsort(stable=True)  # positive prompts first
    sizes = (int(label.sum()), int((~label).sum()))
    if min(sizes) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    try:
        half = hold_out(units[order].unique(return_inverse=True)[1], sizes, 0.5, generator, least=1)
    except ValueError:
        return None
    return torch.zeros_like(half).index_copy_(0, order, half).to(labels.device)
