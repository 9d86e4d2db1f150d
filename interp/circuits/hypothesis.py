"""Tests of hypotheses about a circuit (Shi et al. 2024, arXiv:2410.13032), as functions of numbers.

| test           | null hypothesis                                           | a small p says         |
|----------------|-----------------------------------------------------------|------------------------|
| `equivalence`  | circuit and model outdo one another about equally often    | it behaves otherwise   |
| `independence` | what the model does without it does not depend on the model | it misses something    |
| `minimality`   | each edge beats edges added at random, with chance `share` | an edge is not needed  |

So a good circuit is one that none of them rejects, which says more the more prompts there are.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import binom


def equivalence(
    circuit: Float[np.ndarray, "prompt"], model: Float[np.ndarray, "prompt"], tolerance: float = 0.1
) -> tuple[float, float]:
    """The share of prompts on which the circuit's metric is above the model's, and the p-value.

    The null hypothesis is that its chance lies within `tolerance` of one half. Ties are left out; with ties
    alone the share is one half and p is 1.
    """
    above, below = int((circuit > model).sum()), int((circuit < model).sum())
    n = above + below
    if n == 0:
        return 0.5, 1.0
    most, chance = max(above, below), 0.5 + tolerance
    p = binom.sf(most - 1, n, chance) + binom.cdf(n - most, n, chance)
    return above / n, float(min(1.0, p))


def independence(
    rest: Float[np.ndarray, "prompt"],
    model: Float[np.ndarray, "prompt"],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """HSIC of two metrics over prompts (Gaussian kernels, median widths), and its permutation p-value.

    A constant is independent of everything: 0 and 1.
    """
    if np.ptp(rest) == 0 or np.ptp(model) == 0:
        return 0.0, 1.0
    first, second = _centred(_kernel(rest)), _kernel(model)
    n, rng = len(rest), np.random.default_rng(seed)
    observed = float((first * second).sum()) / n**2
    draws = np.empty(permutations)
    for i in range(permutations):
        order = rng.permutation(n)
        draws[i] = (first * second[np.ix_(order, order)]).sum() / n**2
    return observed, float((1 + (draws >= observed).sum()) / (1 + permutations))


def minimality(
    effects: Float[np.ndarray, "edge"], reference: Float[np.ndarray, "draw"], share: float = 0.9
) -> Float[np.ndarray, "edge"]:
    """p-value of each edge, for several tests at once (Bonferroni): that it does more than random edges do.

    effects: how much the metric changes when an edge of the circuit is cut. reference: the same for edges
    that were added at random. The null hypothesis is that an edge beats a random one with a chance of at
    least `share`.
    """
    beaten = (effects[:, None] > reference[None]).sum(1)
    return np.minimum(1.0, len(effects) * binom.cdf(beaten, len(reference), share))


def _kernel(x: np.ndarray) -> np.ndarray:
    square = (x[:, None] - x[None]) ** 2
    width = np.median(square[square > 0])
    return np.exp(-square / width)


def _centred(kernel: np.ndarray) -> np.ndarray:
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
