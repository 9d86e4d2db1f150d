"""The interval holds the true value as often as it says.

Data sets are simulated side by side: every cell (or, where baselines vary, every metric) is one data set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from scipy.stats import t as student

from interp import stats

SETS = 1200
RATIOS = 400


def covers(data: xr.Dataset, truth: float, dim: str = "cell", **options: Any) -> float:
    """The share of data sets whose interval holds the truth; every eighth of them has draws of its own."""
    shares = []
    for seed, some in enumerate(np.array_split(np.arange(data.sizes[dim]), 8)):
        found = stats.bootstrap(data.isel({dim: some}), seed=seed, **options)
        shares.append(((found["low"] <= truth) & (truth <= found["high"])).values.ravel())
    return float(np.concatenate(shares).mean())


def draw(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Effects with mean 1: symmetric, skewed, or mostly near nought with some large."""
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return rng.normal(1.0, 1.0, shape)
    if kind == "skewed":
        return rng.gamma(4.0, 0.25, shape)
    return np.where(rng.random(shape) < 0.5, rng.normal(2.0, 0.5, shape), rng.normal(0.0, 0.1, shape))


@pytest.mark.parametrize("kind", ["normal", "skewed", "mixed"])
@pytest.mark.parametrize("n_prompts", [15, 30, 60])
def test_the_mean_is_covered(result, kind: str, n_prompts: int) -> None:
    data = result(draw(kind, (n_prompts, SETS), seed=n_prompts))
    assert 0.93 <= covers(data, 1.0) <= (0.99 if (kind, n_prompts) == ("mixed", 15) else 0.97)


@pytest.mark.parametrize("n_prompts", [30, 60])
def test_the_ratio_of_means_is_covered(result, n_prompts: int) -> None:
    """Effects are a varying share, 0.4 on average, of a varying clean - corrupt."""
    rng = np.random.default_rng(n_prompts)
    full = rng.gamma(9.0, 1 / 3, (n_prompts, RATIOS))
    share = rng.normal(0.4, 0.3, (n_prompts, RATIOS))
    data = result((full * share)[:, None], full, 0.0, dims=("prompt", "cell", "metric"))
    assert 0.93 <= covers(data, 0.4, "metric", statistic="normalised", n=500) <= 0.97


# The mean of an exponential, by units: expanded percentile, BCa with expanded tails.
TABLE = {10: (0.907, 0.932), 20: (0.913, 0.943), 50: (0.941, 0.942)}


@pytest.mark.parametrize("n_prompts", list(TABLE))
def test_skewed_effects_are_covered_as_the_table_says(result, n_prompts: int) -> None:
    data = result(np.random.default_rng(n_prompts).exponential(1.0, (n_prompts, 8000)))
    for method, expected in zip(("percentile", "bca"), TABLE[n_prompts]):
        assert covers(data, 1.0, method=method) == pytest.approx(expected, abs=0.02)


def test_the_corrections_are_efrons(result) -> None:
    """Bias and acceleration of one small data set, by the definition."""
    effect = np.random.default_rng(5).gamma(0.5, 1.0, (9, 1))
    found = stats.bootstrap(result(effect), n=2000, seed=3)
    y = effect[:, 0]
    counts = np.random.default_rng(3).multinomial(9, [1 / 9] * 9, size=2000)
    draws = np.sort(counts @ y / 9)
    left = np.array([np.delete(y, i).mean() for i in range(9)])
    gap = left.mean() - left
    a = (gap**3).sum() / (6 * (gap**2).sum() ** 1.5)
    ties = np.isclose(draws, y.mean(), rtol=1e-12)
    z0 = norm.ppf(((draws < y.mean()) & ~ties).mean() + ties.mean() / 2)
    expected = []
    for z in (-1.0, 1.0):
        z = z * np.sqrt(9 / 8) * student.ppf(0.975, 8)
        expected.append(np.quantile(draws, norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    np.testing.assert_allclose([found["low"][0], found["high"][0]], expected, rtol=1e-9)
    assert abs(a) > 0.05
    assert abs(z0) > 0.01


def test_degenerate_cells_say_so(result) -> None:
    effect = np.stack([np.full(8, 2.0), np.r_[np.zeros(7), 1.0]], 1)
    found = stats.bootstrap(result(effect))
    assert (found["low"][0], found["high"][0]) == (2.0, 2.0)
    assert found.attrs["clipped"] == 0
    two = stats.bootstrap(result(np.array([[1.0], [2.0]])))
    assert 1.0 <= float(two["low"][0]) <= float(two["high"][0]) <= 2.0


def test_mirrored_prompts_are_drawn_together(result) -> None:
    effect = draw("normal", (18, 3), seed=2)
    paired = result(effect, template=["a"] * 18).assign_coords(unit=("prompt", np.arange(18) // 2))
    found = stats.bootstrap(paired)
    assert [found.attrs[name] for name in ("resampled", "n_resampled", "n_clusters")] == ["unit", 9, 1]
    whole = result(effect.reshape(9, 2, 3).mean(1))
    np.testing.assert_allclose(found["low"], stats.bootstrap(whole)["low"])
    with pytest.raises(ValueError, match=r"2 prompt\(s\) are 1 independent unit \(prompts that share a text"):
        stats.bootstrap(paired.isel(prompt=[0, 1]))


def test_a_share_of_a_gap_that_could_be_nothing_is_refused(result) -> None:
    """The ratio of means jumps about where the denominator's interval includes 0."""
    clean = np.random.default_rng(0).normal(0.1, 1.0, 12)
    data = result(np.ones((12, 2)), clean, 0.0)
    for share in (stats.normalise, lambda r: stats.bootstrap(r, statistic="normalised")):
        with pytest.warns(UserWarning, match="95 % interval of .* so the normalised effect is not defined"):
            out = share(data)
        assert np.isnan(out["value" if "value" in out else "estimate"]).all()


def test_clustered_prompts_need_the_clustered_bootstrap(result) -> None:
    """Prompts of a template share half their variance: resampling prompts is far too sure of itself."""
    clusters, size = 24, 4
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.normal(size=(clusters, SETS)), size, axis=0)
    effect = 1.0 + shared + rng.normal(size=shared.shape)
    data = result(effect, template=[f"t{i // size}" for i in range(clusters * size)])
    clustered, plain = stats.bootstrap(data), stats.bootstrap(data, cluster=None)
    assert 0.93 <= covers(data, 1.0) <= 0.97
    assert covers(data, 1.0, cluster=None) < 0.85
    assert (clustered.attrs["resampled"], clustered.attrs["n_resampled"]) == ("template", clusters)
    assert (plain.attrs["resampled"], plain.attrs["n_resampled"]) == ("prompt", clusters * size)


def test_clusters_of_unequal_size_weigh_by_their_prompts(result) -> None:
    sizes = np.arange(1, 13)
    template = np.repeat(np.arange(12), sizes)
    effect = template[:, None].astype(float)
    found = stats.bootstrap(result(effect, template=[str(t) for t in template]))
    np.testing.assert_allclose(found["estimate"], effect.mean(0))
    assert found["low"] < found["estimate"] < found["high"]


def test_few_clusters_fall_back_to_prompts_and_say_so(result) -> None:
    effect = np.random.default_rng(0).normal(size=(36, 5))
    few = result(effect, template=[f"t{i % 9}" for i in range(36)])
    found = stats.bootstrap(few)
    assert (found.attrs["resampled"], found.attrs["n_clusters"]) == ("prompt", 9)
    xr.testing.assert_equal(found, stats.bootstrap(few, cluster=None))
    enough = result(effect, template=[f"t{i % 10}" for i in range(36)])
    assert stats.bootstrap(enough).attrs["resampled"] == "template"


def test_the_interval_brackets_the_estimate_and_narrows_with_prompts(result) -> None:
    widths = []
    for n_prompts in (20, 80, 320):
        found = stats.bootstrap(result(draw("normal", (n_prompts, 50), seed=3)))
        assert ((found["low"] < found["estimate"]) & (found["estimate"] < found["high"])).all()
        widths.append(float((found["high"] - found["low"]).mean()))
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.2)


def test_a_higher_level_is_wider(result) -> None:
    data = result(draw("normal", (30, 50), seed=4))
    narrow, wide = stats.bootstrap(data, level=0.8), stats.bootstrap(data, level=0.99)
    assert ((wide["low"] < narrow["low"]) & (narrow["high"] < wide["high"])).all()


def test_the_seed_decides(result) -> None:
    data = result(draw("skewed", (30, 4), seed=5))
    xr.testing.assert_identical(stats.bootstrap(data), stats.bootstrap(data))
    assert (stats.bootstrap(data)["low"] != stats.bootstrap(data, seed=1)["low"]).all()


def test_chunks_do_not_change_the_numbers(result, monkeypatch) -> None:
    data = result(draw("normal", (20, 37), seed=6))
    whole = stats.bootstrap(data, n=200)
    monkeypatch.setattr("interp.stats._resample._CELLS_AT_ONCE", 5)
    xr.testing.assert_allclose(stats.bootstrap(data, n=200), whole, rtol=1e-12)


def test_units_scale_and_shift_of_the_dims(result) -> None:
    effect = draw("normal", (20, 3, 4), seed=7)
    found = stats.bootstrap(result(effect, dims=("prompt", "layer", "head")))
    assert found["low"].dims == ("layer", "head")
    doubled = stats.bootstrap(result(-2 * effect, dims=("prompt", "layer", "head")))
    np.testing.assert_allclose(doubled["low"], -2 * found["high"])
    halves = stats.bootstrap(result(effect, dims=("prompt", "layer", "head")), statistic="normalised")
    np.testing.assert_allclose(halves["high"], found["high"] / 2)


def test_cells_that_do_not_exist_have_no_interval(result) -> None:
    effect = draw("normal", (20, 3), seed=8)
    effect[:, 1] = np.nan
    effect[3, 2] = np.nan
    found = stats.bootstrap(result(effect))
    assert np.isnan(found["low"].values).tolist() == [False, True, False]
    np.testing.assert_allclose(found["estimate"][2], np.nanmean(effect[:, 2]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"statistic": "median"}, "must be one of mean, normalised"),
        ({"level": 95.0}, "between 0 and 1"),
        ({"n": 10}, "at least 100"),
        ({"cluster": "templat"}, "did you mean .template."),
    ],
)
def test_bad_options(result, options: dict, says: str) -> None:
    data = result(draw("normal", (6, 2), seed=9), template=list("abcdef"))
    with pytest.raises(ValueError, match=says):
        stats.bootstrap(data, **options)


def test_one_prompt_has_no_interval(result) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        stats.bootstrap(result(np.ones((1, 3))))
