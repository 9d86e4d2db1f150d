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
    clean, corrupt = np.array([4.0, 3.0, 6.0]), np.array([1.0, 2.0, 0.5])
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


def test_a_circuit_is_normalised_by_the_empty_one(result) -> None:
    given = result(np.array([[1.0], [2.0]]), clean=np.array([4.0, 6.0]), corrupt=np.array([1.0, 3.0]))
    circuit = given.rename(corrupt="empty")
    np.testing.assert_allclose(stats.normalise(circuit)["value"], 0.5)
    found, same = (stats.bootstrap(each, statistic="normalised", n=200) for each in (circuit, given))
    for name in ("estimate", "low", "high"):
        xr.testing.assert_allclose(found[name], same[name])


def test_a_readout_without_baselines_has_means_and_intervals_but_no_share(result) -> None:
    readout = result(effects()).drop_vars(["clean", "corrupt"])
    np.testing.assert_allclose(stats.mean(readout)["value"], effects().mean(0))
    assert (stats.bootstrap(readout, n=200)["low"] <= stats.mean(readout)["value"]).all()
    with pytest.raises(ValueError, match="no variable 'clean'"):
        stats.normalise(readout)
    with pytest.raises(ValueError, match="no variable 'corrupt"):
        stats.bootstrap(result(effects()).drop_vars("corrupt"), statistic="normalised")


def test_a_difference_knows_what_it_is(result) -> None:
    a, b = result(effects(), method="atp"), result(effects(seed=1), method="patch")
    parted = stats.difference(a, b)
    xr.testing.assert_allclose(parted["value"], a["value"] - b["value"])
    assert (parted.attrs["method"], parted.attrs["difference"]) == ("difference", "atp - patch")
    assert stats.mean(a - b).attrs["method"] == "difference"
    with pytest.raises(ValueError, match="a difference of two results has no clean - corrupt"):
        stats.normalise(parted)
    with pytest.raises(ValueError, match="differ in metric"):
        stats.difference(a, b.assign_attrs(metric="kl"))


def test_what_is_no_result_is_refused(result) -> None:
    with pytest.raises(ValueError, match="no variable 'clean'"):
        stats.normalise(result(effects()).drop_vars("clean"))
    with pytest.raises(ValueError, match="no 'prompt' dim"):
        stats.normalise(stats.mean(result(effects())))
