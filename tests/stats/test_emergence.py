"""The curve of emergence: planted curves come back, noise is told, the peak has an interval."""

from __future__ import annotations

import numpy as np
import pytest

from interp.stats import fit_emergence

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 16000], dtype=float)


def planted(steps: np.ndarray, A: float, rate: float, speed: float, start: float, K: float) -> np.ndarray:
    x = speed * steps + start
    return A * np.exp(-rate * x) * np.log(x) + K


@pytest.mark.parametrize(
    ("A", "rate", "speed", "start", "K"),
    [(9.0, 0.05, 0.01, 1.0, 2.0), (300.0, 0.3, 0.002, 1.5, 0.0), (-4.0, 0.1, 0.01, 1.0, 7.0)],
)
def test_a_planted_curve_comes_back(A, rate, speed, start, K):
    y = planted(STEPS, A, rate, speed, start, K)
    fit = fit_emergence(STEPS, y)
    dense = np.linspace(0, 16000, 400_001)
    curve = planted(dense, A, rate, speed, start, K)
    highest = dense[np.argmax(np.sign(A) * curve)]
    assert fit.attrs["r2"] > 0.9999
    assert np.abs(fit["fitted"].values - y).max() <= 1e-3 * np.ptp(y)
    assert fit.attrs["peak"] == pytest.approx(highest, rel=0.02)
    assert fit.attrs["peak_value"] == pytest.approx(np.max(np.sign(A) * curve) * np.sign(A), rel=0.01)


def test_noise_is_told_by_r2_and_by_the_interval():
    generator = np.random.default_rng(0)
    truth = planted(STEPS, 9.0, 0.05, 0.01, 1.0, 2.0)
    rows = truth + generator.normal(scale=1.5, size=(12, len(STEPS)))
    fit = fit_emergence(STEPS, rows)
    exact = fit_emergence(STEPS, truth).attrs["peak"]
    assert 0.97 < fit.attrs["r2"] < 0.9999
    low, high = fit.attrs["peak_low"], fit.attrs["peak_high"]
    assert low <= fit.attrs["peak"] <= high
    assert abs(fit.attrs["peak"] - exact) <= high - low < exact
    nothing = fit_emergence(STEPS, generator.normal(size=len(STEPS)))
    assert nothing.attrs["r2"] < 0.9


def test_a_peak_outside_the_steps_is_no_number():
    rising = np.log(1 + STEPS)
    fit = fit_emergence(STEPS, rising)
    assert fit.attrs["r2"] > 0.999
    assert np.isnan(fit.attrs["peak"])
    assert "after the last step" in fit.attrs["peak_reason"]


@pytest.mark.parametrize(
    ("steps", "values", "match"),
    [
        (STEPS[:5], STEPS[:5], "at least 6 steps"),
        (STEPS, STEPS[:-1], "15.*for 16 steps"),
        (STEPS[::-1], STEPS, "must rise"),
        (STEPS, np.where(STEPS == 8, np.nan, STEPS), "not finite"),
        (STEPS, np.ones(16), "nothing emerges"),
    ],
)
def test_what_is_wrong_is_said(steps, values, match):
    with pytest.raises(ValueError, match=match):
        fit_emergence(steps, values)
