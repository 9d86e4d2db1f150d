"""Tests over prompts: false alarms at the nominal rate, by unit; words that say what holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import interp
from interp import stats

Simulated = Callable[..., xr.Dataset]


def null(rng: np.random.Generator, n_pairs: int, cells: int, shared: float) -> np.ndarray:
    """Effects [prompt, cell] without a mean; the two prompts of a pair correlate."""
    together, apart = rng.normal(size=(n_pairs, cells)), rng.normal(size=(2, n_pairs, cells))
    both = np.sqrt(shared) * together + np.sqrt(1 - shared) * apart
    return both.transpose(1, 0, 2).reshape(2 * n_pairs, cells)


def with_units(result: Simulated, effect: np.ndarray) -> xr.Dataset:
    return result(effect).assign_coords(unit=("prompt", np.arange(len(effect)) // 2))


def test_false_alarms_are_at_the_nominal_rate_by_pair_and_many_by_prompt(result: Simulated) -> None:
    rng = np.random.default_rng(0)
    alarms = {"unit": 0, None: 0}
    for _ in range(500):
        noise = with_units(result, null(rng, 12, 60, 0.8))
        for cluster in alarms:
            alarms[cluster] += bool(stats.test(noise, cluster=cluster, n=199)["significant"].any())
    assert alarms["unit"] / 500 <= 0.07
    assert alarms[None] / 500 >= 0.4


def test_all_flips_are_counted_by_hand(result: Simulated) -> None:
    effect = np.array([[3.0, 1.0], [2.0, -1.0], [4.0, 0.5]])
    found = stats.test(result(effect), cluster=None)
    flips = 1 - 2 * np.array(np.meshgrid(*[[0, 1]] * 3, indexing="ij")).reshape(3, -1).T
    t = []
    for signs in flips:
        y = effect * signs[:, None]
        t.append(np.abs(y.mean(0) / (y.std(0, ddof=1) / np.sqrt(3))))
    observed = np.abs(effect.mean(0) / (effect.std(0, ddof=1) / np.sqrt(3)))
    expected = [(np.max(t, 1) >= one - 1e-9).mean() for one in observed]
    alone = (np.array(t) >= observed - 1e-9).mean(0)
    np.testing.assert_allclose(found["p"], expected)
    np.testing.assert_allclose(found["p_cell"], alone)
    np.testing.assert_allclose(found["t"], effect.mean(0) / (effect.std(0, ddof=1) / np.sqrt(3)))
    assert found.attrs["flips"] == 8
    assert found.attrs["smallest_p"] == 2 / 8


def test_no_ops_are_no_hypotheses(result: Simulated) -> None:
    effect = np.random.default_rng(1).normal(3.0, 1.0, (10, 4))
    effect[:, 2] = 0.0
    found = stats.test(result(effect), cluster=None)
    assert found.attrs["family"] == 3
    assert np.isnan(found["p"].values[2])
    assert found["significant"].values.tolist() == [True, True, False, True]


def test_a_planted_effect_is_found_and_bh_is_softer(result: Simulated) -> None:
    rng = np.random.default_rng(2)
    effect = rng.normal(size=(40, 50))
    effect[:, :5] += 1.0
    found = stats.test(result(effect), cluster=None)
    assert found["significant"].values[:5].all()
    assert int((found["q"] < 0.05).sum()) >= int(found["significant"].sum())
    assert (found["p_cell"] <= found["p"] + 1e-12).all()


def test_mirrored_prompts_are_one_unit() -> None:
    model = interp.load("tiny-ioi")
    effects = interp.patch(model, interp.tasks.ioi(model, n=16, seed=0), "z", progress=False)
    assert effects["unit"].values.tolist() == [i // 2 for i in range(16)]
    assert stats.test(effects).attrs["units"] == 8


def test_power() -> None:
    """The figures of the exact noncentral t."""
    assert [stats.power(e, 1.0) for e in (0.3, 0.5, 0.8)] == [90, 34, 15]
    assert [stats.power(e, 1.0, cells=144) for e in (0.3, 0.5, 0.8)] == [224, 85, 37]


def test_summary_says_what_cannot_be_concluded(result: Simulated) -> None:
    few = stats.summary(with_units(result, np.random.default_rng(3).normal(5, 1, (8, 3))))
    assert "8 prompts are 4 independent units" in few
    assert "no p can be below 0.125" in few
    assert "6 units are the least" in few
    many = stats.summary(with_units(result, np.random.default_rng(3).normal(5, 1, (40, 3))))
    assert "of 3 cells 3 differ from 0" in many
    skewed = stats.summary(result(np.random.default_rng(4).exponential(size=(40, 30)) - 1), cluster=None)
    assert "are skewed" in skewed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cluster": "templat"}, "cluster is 'templat', but the coordinates on prompts are"),
        ({"level": 1.5}, "level is 1.5"),
    ],
)
def test_wrong_arguments(result: Simulated, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.test(with_units(result, np.ones((4, 2))), **arguments)
    with pytest.raises(ValueError, match="1 unit of prompts; a test needs at least two"):
        stats.test(with_units(result, np.ones((2, 2))))
