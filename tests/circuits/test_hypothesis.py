"""Tests of hypotheses: right rate of false alarms where the null holds, power where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from interp.circuits._judge.hypotheses import equivalence, independence, minimality

ALPHA, RUNS = 0.05, 300
MOST = int(binom.ppf(0.999, RUNS, ALPHA))  # rejections that chance allows


def test_equivalence_at_the_border_of_its_null() -> None:
    """A chance of winning of 0.6, the largest that a tolerance of 0.1 allows."""
    rng = np.random.default_rng(0)
    draws = [rng.random(80) < 0.6 for _ in range(RUNS)]
    rejected = sum(equivalence(wins.astype(float), np.full(80, 0.5), 0.1)[1] < ALPHA for wins in draws)
    assert 1 <= rejected <= MOST
    always = [equivalence(rng.random(80) + 0.5, rng.random(80), 0.1)[1] < ALPHA for _ in range(50)]
    assert np.mean(always) > 0.9


def test_equivalence_by_hand() -> None:
    """9 of 10 wins, no tolerance: the sign test, 2 · 11 / 1024. Ties do not count."""
    share, p = equivalence(np.arange(11.0), np.array([-1.0, *range(9), 99.0]), 0.0)
    assert (share, p) == (pytest.approx(10 / 11), pytest.approx(2 * 12 / 2048))
    assert equivalence(np.ones(5), np.ones(5)) == (0.5, 1.0)


def test_independence() -> None:
    rng = np.random.default_rng(1)
    pairs = [rng.normal(size=(2, 25)) for _ in range(RUNS)]
    rejected = sum(independence(a, b, permutations=99)[1] < ALPHA for a, b in pairs)
    assert 1 <= rejected <= MOST
    dependent = [independence(a, a**2 + 0.1 * b, permutations=99)[1] < ALPHA for a, b in pairs[:30]]
    assert np.mean(dependent) > 0.9  # no linear correlation
    assert independence(np.ones(5), np.arange(5.0)) == (0.0, 1.0)


def test_hsic_is_the_double_sum() -> None:
    """(1 / n²) Σ_ij K_ij (H L H)_ij, with H = 1 - 1/n."""
    a, b = np.random.default_rng(2).normal(size=(2, 12))
    kernels = []
    for x in (a, b):
        square = np.subtract.outer(x, x) ** 2
        kernels.append(np.exp(-square / np.median(square[square > 0])))
    centre = np.eye(12) - 1 / 12
    expected = np.trace(kernels[0] @ centre @ kernels[1] @ centre) / 12**2
    assert independence(a, b, permutations=1)[0] == pytest.approx(expected, rel=1e-10)


def test_minimality_over_all_edges() -> None:
    """Edges that beat a random one with a chance of 0.9: in 5 % of cases or less one of ten is
    rejected. Edges like random ones are."""
    rng = np.random.default_rng(3)
    quantile = 0.9
    rejected = 0
    for _ in range(RUNS):
        reference = rng.random(60)
        rejected += bool((minimality(np.full(10, quantile), reference, quantile) < ALPHA).any())
    assert 1 <= rejected <= MOST
    useless = minimality(np.array([0.05, 2.0]), rng.random(60), quantile)
    assert useless[0] < 1e-6
    assert useless[1] == 1.0
