"""Intervals of shares against scipy's, their coverage, and the one place that all verbs take them from."""

from __future__ import annotations

import numpy as np
import pytest
import two_sides
from scipy.stats import binom, binomtest

import interp
from interp import probes
from interp.stats._shares import check_level, share_at_most, share_interval
from interp.steering import methods

TRIALS = [(0, 1), (1, 1), (0, 32), (3, 20), (20, 20), (57, 200)]


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_both_ends_are_the_exact_interval(level: float) -> None:
    k, n = np.array(TRIALS).T
    low, high = share_interval(k, n, level)
    exact = [binomtest(int(a), int(b)).proportion_ci(level, method="exact") for a, b in TRIALS]
    assert low == pytest.approx([each.low for each in exact], abs=1e-12)
    assert high == pytest.approx([each.high for each in exact], abs=1e-12)
    assert share_interval(3, 20, level)[0].shape == ()


def test_one_side_has_the_whole_tail() -> None:
    exact = [binomtest(k, n, alternative="less").proportion_ci(0.9, method="exact").high for k, n in TRIALS]
    assert share_at_most(*np.array(TRIALS).T, 0.9) == pytest.approx(exact)


def test_it_covers_at_every_share() -> None:
    """Wilson's, of 20 trials, does not: 85 % at a share of 0.008."""
    k = np.arange(21)
    low, high = share_interval(k, 20, 0.95)
    for share in np.linspace(0.001, 0.999, 97):
        inside = (low <= share) & (share <= high)
        assert binom.pmf(k, 20, share)[inside].sum() >= 0.95


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(ValueError, match="level is"):
        check_level(level)


def test_verbs_ask_for_a_share_before_anything_runs() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=16, seed=0)
    d = interp.steering.mean_difference(model, task.clean[:8], task.clean[8:], layer=1)
    _, probe = probes.fit(model, task.clean[:8], task.clean[8:], layer=1, draws=1, progress=False)
    ask = probes.Question(" book", " bag")
    concepts = {"a": d, "b": d}
    calls = (
        lambda: probes.reliability([0.1, 0.9], [0, 1], level=95),
        lambda: probes.thresholds.operating(0.5, [0.9], [0.2], level=95),
        lambda: probes.cascade(model, task.clean, task.clean, probe, ask, calibrate=((), ()), level=95),
        lambda: methods.introspection(model, task.clean, concepts, ask, level=95),
        lambda: methods.report(model, ["Mary"], d, level=95),
        lambda: methods.control_effect(model, task.clean, task.clean, d, level=95),
        lambda: methods.resistance(model, task, interp.steering.add(d), None, level=95),
        lambda: interp.attribution.screen(model, task, "z", budget=2, level=95),
    )
    with two_sides.no_pass(model):
        for call in calls:
            with pytest.raises(ValueError, match="level is 95"):
                call()
