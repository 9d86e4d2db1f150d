"""The normalised effect is a ratio of means, 0 where nothing changes and 1 where all is restored."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp import stats
from interp.stats._means import metric_facts


def effects(shape: tuple[int, ...] = (5, 4), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_mean_is_the_prompt_mean_of_effects_and_baselines(result) -> None:
    clean = np.arange(5.0)
    out = stats.mean(result(effects(), clean=clean))
    np.testing.assert_allclose(out["value"], effects().mean(0))
    assert float(out["clean"]) == clean.mean()
    assert out.attrs["n_prompts"] == 5
    assert "prompt" not in out.dims


def test_a_full_restoration_is_one_and_none_is_zero(result) -> None:
    clean, corrupt = np.array([4.0, 1.0, 6.0]), np.array([1.0, 2.0, 0.5])
    effect = np.stack([clean - corrupt, np.zeros(3)], axis=1)
    out = stats.normalise(result(effect, clean, corrupt))
    np.testing.assert_allclose(out["value"], [1.0, 0.0])
    assert out.attrs["normalisation"] == "ratio of means"


def test_it_is_the_ratio_of_means_and_not_the_mean_of_ratios(result) -> None:
    clean, corrupt = np.array([10.0, 1.0]), np.array([0.0, 0.5])
    out = stats.normalise(result(np.array([[5.0], [0.5]]), clean, corrupt))
    np.testing.assert_allclose(out["value"], [5.5 / 10.5])


def test_lower_is_better_turns_the_denominator(result) -> None:
    """KL: clean 0, corrupt 2; a patch that brings it to 0.5 restores three quarters."""
    kl = result(np.full((3, 1), 1.5), clean=0.0, corrupt=2.0, better="lower", metric="kl")
    np.testing.assert_allclose(stats.normalise(kl)["value"], [0.75])


def test_several_metrics_have_their_own_denominators(result) -> None:
    value = np.stack([np.full((3, 2), 1.0), np.full((3, 2), 1.5)], axis=-1)
    both = result(
        value,
        np.array([3.0, 0.0]),
        np.array([1.0, 2.0]),
        dims=("prompt", "layer", "metric"),
        better="higher, lower",
    )
    np.testing.assert_allclose(stats.normalise(both)["value"], [[0.5, 0.75]] * 2)
    one = both.sel(metric="metric1")
    np.testing.assert_allclose(stats.normalise(one)["value"], [0.75, 0.75])
    assert [facts.better for facts in metric_facts(one)] == ["lower"]


def test_a_cell_that_is_missing_in_a_prompt_is_left_out_of_both_sums(result) -> None:
    effect = np.array([[1.0, 1.0, np.nan], [2.0, np.nan, np.nan]])
    out = stats.normalise(result(effect, clean=np.array([4.0, 6.0]), corrupt=0.0))
    np.testing.assert_allclose(out["value"], [0.3, 0.25, np.nan])
    np.testing.assert_allclose(stats.mean(result(effect))["value"], [1.5, 1.0, np.nan])


def test_equal_baselines_warn_and_give_nan(result) -> None:
    same = result(
        effects((4, 2)), clean=np.array([1.0, 2.0, 3.0, 4.0]), corrupt=np.array([4.0, 3.0, 2.0, 1.0])
    )
    with pytest.warns(UserWarning, match="logit_diff: clean and corrupt have the same mean"):
        out = stats.normalise(same)
    assert np.isnan(out["value"]).all()


def test_the_inputs_are_not_changed(result) -> None:
    given = result(effects())
    before = given.copy(deep=True)
    stats.normalise(given)
    stats.bootstrap(given, n=100)
    xr.testing.assert_identical(given, before)


def test_what_is_no_result_is_refused(result) -> None:
    with pytest.raises(ValueError, match="no variable 'clean'"):
        stats.mean(result(effects()).drop_vars("clean"))
    with pytest.raises(ValueError, match="no 'prompt' dim"):
        stats.normalise(stats.mean(result(effects())))
