"""Scores of single units (neurons, heads' projections, latents) for telling two classes apart.

All are pure functions of activations [n, unit] and [m, unit], give [unit], and are large where the unit is
higher on the positive class. They are computed in float64.

| function         | value                                                     | chance | range    |
|------------------|-----------------------------------------------------------|--------|----------|
| auroc            | P(positive > negative) + half of ties                     | 0.5    | 0 to 1   |
| effect_size      | difference of means / pooled SD (Cohen's d)               | 0      | any      |
| sign_consistency | share of pairs in which positive > negative, ties half    | 0.5    | 0 to 1   |
| log_odds         | log odds of being above a threshold, positive − negative  | 0      | any      |
| mutual_information | of the class and the unit in bins, nats                 | 0      | 0 to log 2 |
| probe_accuracy   | of the best threshold, chosen on even rows, tested on odd | 0.5    | 0 to 1   |
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import verb

__all__ = ["auroc", "effect_size", "log_odds", "mutual_information", "probe_accuracy", "sign_consistency"]

Positive = Float[Tensor, "n unit"]
Negative = Float[Tensor, "m unit"]
Scores = Float[Tensor, "unit"]


def __dir__() -> list[str]:
    return __all__


@verb
def auroc(positive: Positive, negative: Negative) -> Scores:
    """Area under the ROC curve: the average precision of expert units (Suau et al. 2020) has the same use.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.auroc(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    up, down = (
        positive.double().T.contiguous(),
        negative.double().T.sort(1).values.contiguous(),
    )  # [unit, row]
    below, upto = torch.searchsorted(down, up), torch.searchsorted(down, up, right=True)
    return (below + upto).double().mean(1) / (2 * down.shape[1])


@verb
def effect_size(positive: Positive, negative: Negative) -> Scores:
    """Difference of means over the pooled standard deviation. 0 where both classes are constant and equal.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.effect_size(up, down).shape)
        (8,)
    """
    _check(positive, negative, at_least=2)
    up, down = positive.double(), negative.double()
    n, m = len(up), len(down)
    pooled = ((n - 1) * up.var(0) + (m - 1) * down.var(0)) / (n + m - 2)
    gap = up.mean(0) - down.mean(0)
    return torch.where(gap == 0, torch.zeros_like(gap), gap / pooled.sqrt())


@verb
def sign_consistency(positive: Positive, negative: Negative) -> Scores:
    """Share of pairs (row i with row i) in which the positive is the higher; ties count half.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.sign_consistency(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    require_pairs(len(positive), len(negative))
    return (torch.sign(positive.double() - negative.double()) + 1).mean(0) / 2


@verb
def log_odds(positive: Positive, negative: Negative, threshold: float | int = 0.0) -> Scores:
    """log odds(unit > threshold | positive) − log odds(… | negative), half a count added to each.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.log_odds(up, down).shape)
        (8,)
    """
    _check(positive, negative)

    def odds(rows: Tensor) -> Tensor:
        above = (rows > threshold).double().sum(0)
        return torch.log((above + 0.5) / (len(rows) - above + 0.5))

    return odds(positive) - odds(negative)


@verb
def mutual_information(positive: Positive, negative: Negative, bins: int = 8) -> Scores:
    """Information in nats that the unit, in bins of equal count, gives on the class; classes weigh equally.

    Biased upwards by about (bins − 1) / (2 (n + m)): compare units with one another, or with shuffled labels.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.mutual_information(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    if bins < 2:
        raise ValueError(f"bins is {bins}; use 2 or more.")
    both = torch.cat((positive, negative)).double()
    edges = both.quantile(
        torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=both.device)[1:-1], dim=0
    )

    def share(rows: Tensor) -> Tensor:
        bin_ = (rows.double()[:, None] > edges).sum(1)  # [row, unit]
        return torch.stack([(bin_ == b).double().mean(0) for b in range(bins)])  # [bin, unit]

    up, down = share(positive), share(negative)
    middle = (up + down) / 2
    return (torch.xlogy(up, up / middle) + torch.xlogy(down, down / middle)).nan_to_num(0.0).sum(0) / 2


@verb
def probe_accuracy(positive: Positive, negative: Negative) -> Scores:
    """Balanced accuracy of one threshold by unit, fitted on the even rows and measured on the odd ones.

    The threshold is midway between the class means, the side as they lie; 0.5 is chance.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.probes.selectors.probe_accuracy(up, down).shape)
        (8,)
    """
    _check(positive, negative, at_least=2)
    up, down = positive.double(), negative.double()
    high, low = up[::2].mean(0), down[::2].mean(0)
    side = torch.where(high >= low, 1.0, -1.0).double()
    right = [
        (side * sign * (rows[1::2] - (high + low) / 2) > 0).double().mean(0)
        for sign, rows in ((1, up), (-1, down))
    ]
    return (right[0] + right[1]) / 2


def _check(positive: Tensor, negative: Tensor, at_least: int = 1) -> None:
    for name, rows in (("positive", positive), ("negative", negative)):
        if len(rows) < at_least:
            raise ValueError(f"the {name} class has {len(rows)} rows; this needs {at_least} or more.")
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"the classes have {positive.shape[1]} and {negative.shape[1]} units; give the same."
        )


def require_pairs(n: int, m: int) -> None:
    """Paired methods compare row i with row i."""
    if n != m:
        raise ValueError(
            f"there are {n} positive and {m} negative prompts, and this method pairs them. Give as many of "
            "each, or use mean_difference."
        )
