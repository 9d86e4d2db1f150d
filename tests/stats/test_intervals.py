"""The interval holds the true value as often as it says.

Data sets are simulated side by side: every cell (or, where baselines vary, every metric) is one data set.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp import stats

SETS = 1200


def covers(found: xr.Dataset, truth: float) -> float:
    return float(((found["low"] <= truth) & (truth <= found["high"])).mean())


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
    found = stats.bootstrap(result(draw(kind, (n_prompts, SETS), seed=n_prompts)))
    assert 0.93 <= covers(found, 1.0) <= 0.97


@pytest.mark.parametrize("n_prompts", [30, 60])
def test_the_ratio_of_means_is_covered(result, n_prompts: int) -> None:
    """Effects are a varying share, 0.4 on average, of a varying clean - corrupt."""
    rng = np.random.default_rng(n_prompts)
    full = rng.gamma(9.0, 1 / 3, (n_prompts, SETS))
    share = rng.normal(0.4, 0.3, (n_prompts, SETS))
    data = result((full * share)[:, None], full, 0.0, dims=("prompt", "cell", "metric"))
    found = stats.bootstrap(data, statistic="normalised", n=500)
    assert 0.93 <= covers(found, 0.4) <= 0.97


def test_clustered_prompts_need_the_clustered_bootstrap(result) -> None:
    """Prompts of a template share half their variance: resampling prompts is far too sure of itself."""
    clusters, size = 24, 4
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.normal(size=(clusters, SETS)), size, axis=0)
    effect = 1.0 + shared + rng.normal(size=shared.shape)
    data = result(effect, template=[f"t{i // size}" for i in range(clusters * size)])
    clustered, plain = stats.bootstrap(data), stats.bootstrap(data, cluster=None)
    assert 0.93 <= covers(clustered, 1.0) <= 0.97
    assert covers(plain, 1.0) < 0.85
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
    monkeypatch.setattr("interp.stats._intervals._CELLS_AT_ONCE", 5)
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
        ({"cluster": "templat"}, "Did you mean 'template'"),
    ],
)
def test_bad_options(result, options: dict, says: str) -> None:
    data = result(draw("normal", (6, 2), seed=9), template=list("abcdef"))
    with pytest.raises(ValueError, match=says):
        stats.bootstrap(data, **options)


def test_one_prompt_has_no_interval(result) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        stats.bootstrap(result(np.ones((1, 3))))
