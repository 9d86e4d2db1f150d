"""Intervals of ratios of sums over units, by the bootstrap: percentile and BCa, with expanded tails.

1. Units are drawn with replacement, n times; the statistic is the ratio of the sums over the units drawn,
   numerator and denominator drawn together (for a mean the denominator counts).
2. The tails are Hesterberg's (2015, arXiv:1411.5279): z = -√(G / (G - 1)) t(G - 1) for G units, where a
   normal quantile would make intervals too narrow by that factor.
3. "percentile": the quantiles Φ(z) and Φ(-z) of the draws. "bca" (Efron 1987): the quantiles

       Φ(z0 + (z0 + z) / (1 - a (z0 + z))),

   z0 = Φ⁻¹(share of draws below the estimate + half of the ties), and the acceleration a from the jackknife
   over units, Σ(m̄ - m_i)³ / 6 (Σ(m̄ - m_i)²)^(3/2): bias and skewness shift the interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri, stdtrit

from interp.stats._units import ratio

METHODS = ("bca", "percentile")
_CELLS_AT_ONCE = 2048
_TIE = 1e-12  # of the largest draw: sums of the same units in another order


class Ends(NamedTuple):
    """By cell; `clipped`: the draws lie all on one side of the estimate, so that z0 is only a bound."""

    low: Float[np.ndarray, "cell"]
    high: Float[np.ndarray, "cell"]
    clipped: int


def ends(
    numerator: Float[np.ndarray, "unit cell"],
    denominator: Float[np.ndarray, "unit #cell"],
    n: int,
    level: float,
    seed: int,
    method: str = "bca",
) -> Ends:
    """The interval of every cell over the units that have it (NaN is none); NaN for fewer than two units.

    denominator: [unit, cell], or [unit, 1] for all cells.
    """
    n_cells = numerator.shape[1]
    out, clipped = np.full((2, n_cells), np.nan), 0
    has = ~np.isnan(numerator)
    patterns, which = np.unique(has, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        k = int(rows.sum())
        if k < 2:
            continue
        counts = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=n).astype(float)
        cells = np.flatnonzero(which.ravel() == number)
        for start in range(0, len(cells), _CELLS_AT_ONCE):
            some = cells[start : start + _CELLS_AT_ONCE]
            below = denominator if denominator.shape[1] == 1 else denominator[:, some]
            low, high, one_sided = _cells(numerator[rows][:, some], below[rows], counts, level, method)
            out[:, some], clipped = (low, high), clipped + one_sided
    return Ends(out[0], out[1], clipped)


def _cells(
    numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray, level: float, method: str
) -> Ends:
    draws = ratio(numerator.T @ counts.T, denominator.T @ counts.T)  # [cell, draw]
    estimate = ratio(numerator.sum(0), denominator.sum(0))
    z = np.array([[-1.0], [1.0]]) * expanded(level, len(numerator))  # [end, 1]
    clipped = 0
    if method == "percentile":
        at = np.broadcast_to(ndtr(z), (2, len(draws)))
    else:
        z0, clipped = _bias(draws, estimate)
        at = _corrected(z, z0, _acceleration(numerator, denominator))
    low, high = _quantiles(draws, at)
    return Ends(low, high, clipped)


def expanded(level: float, n_units: int) -> float:
    """√(G / (G - 1)) times the quantile of t with G - 1 degrees of freedom."""
    t = -stdtrit(n_units - 1, (1 - level) / 2)
    return float(t * np.sqrt(n_units / (n_units - 1)))


def _bias(draws: np.ndarray, estimate: np.ndarray) -> tuple[np.ndarray, int]:
    """z0 of every cell, and in how many all draws were on one side."""
    with np.errstate(invalid="ignore"):
        gap = draws - estimate[:, None]
        tie = np.abs(gap) <= _TIE * np.abs(draws).max(1, keepdims=True)
    share = ((gap < 0) & ~tie).mean(1) + 0.5 * tie.mean(1)
    least = 1 / (2 * draws.shape[1])
    return ndtri(share.clip(least, 1 - least)), int(((share < least) | (share > 1 - least)).sum())


def _acceleration(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """a of every cell, by leaving out one unit at a time."""
    left = ratio(numerator.sum(0) - numerator, denominator.sum(0) - denominator)  # [unit, cell]
    gap = left.mean(0) - left
    squares = (gap**2).sum(0)
    a = ratio((gap**3).sum(0), 6 * squares**1.5)
    return np.where(np.isnan(a), 0.0, a)


def _corrected(z: np.ndarray, z0: np.ndarray, a: np.ndarray) -> np.ndarray:
    """The quantiles to take, [end, cell]; past the pole of the formula, the outermost draw."""
    shifted = z0 + z
    below = 1 - a * shifted
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = ndtr(z0 + shifted / below)
    return np.where(below > 0, inside, (shifted > 0).astype(float))


def _quantiles(draws: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The draws at two quantiles of each cell, [end, cell]: linear between draws; NaN where a draw is."""
    ordered = np.sort(draws, axis=1)
    place = at * (draws.shape[1] - 1)
    first = np.floor(place).astype(int)
    rest = place - first
    row = np.arange(len(draws))
    low, high = ordered[row, first], ordered[row, np.minimum(first + 1, draws.shape[1] - 1)]
    out = low + rest * (high - low)
    return np.where(np.isnan(ordered[:, -1]), np.nan, out)
