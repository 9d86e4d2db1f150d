"""Tests over prompts: false alarms at the nominal rate, by unit; words that say what holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chi2, norm
from scipy.stats import t as student

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
    without = stats.test(result(effect[:, [0, 1, 3]]), cluster=None)
    np.testing.assert_array_equal(found["p"].values[[0, 1, 3]], without["p"].values)
    effect[:, 1] = 2.5
    constant = stats.test(result(effect), cluster=None)
    assert [constant.attrs[name] for name in ("family", "no_ops", "constant")] == [2, 1, 1]
    words = stats.summary(result(effect), cluster=None)
    assert "1 cells are 0 on every prompt: no-ops, which are not tested." in words
    assert "1 cells have the same value, not 0, on every unit: they have no t" in words


def test_a_planted_effect_is_found_and_bh_is_softer(result: Simulated) -> None:
    rng = np.random.default_rng(2)
    effect = rng.normal(size=(40, 50))
    effect[:, :5] += 1.0
    found = stats.test(result(effect), cluster=None)
    assert found["significant"].values[:5].all()
    assert int((found["q"] < 0.05).sum()) >= int(found["significant"].sum())
    assert (found["p_cell"] <= found["p"] + 1e-12).all()


def test_step_down_by_hand_finds_at_least_as_many(result: Simulated) -> None:
    """Drop the cells found, and test the others anew: the p of each is that of the family that is left."""
    rng = np.random.default_rng(7)
    effect = rng.normal(size=(9, 6)) + np.array([3.0, 1.5, 1.0, 0.5, 0.0, 0.0])
    once, down = (stats.test(result(effect), cluster=None, step_down=each) for each in (False, True))
    order = np.argsort(-np.abs(once["t"].values))
    least = 0.0
    for number, cell in enumerate(order):
        left = stats.test(result(effect[:, order[number:]]), cluster=None)
        least = max(least, float(left["p"].values[0]))
        assert float(down["p"][cell]) == pytest.approx(least)
    assert (down["p"] <= once["p"]).all()
    assert (down["p"] < once["p"]).any()


def test_skewed_effects_fool_sign_flips_and_not_the_bootstrap_t(result: Simulated) -> None:
    """Exponential effects less their mean, 60 cells: far more false alarms than 5 %, and no more."""
    rng = np.random.default_rng(11)
    alarms = {"sign-flip": 0, "bootstrap-t": 0}
    for _ in range(60):
        noise = result(rng.exponential(size=(48, 60)) - 1)
        for method in alarms:
            found = stats.test(noise, method=method, cluster=None, n=199)
            alarms[method] += bool(found["significant"].any())
    assert alarms["sign-flip"] >= 0.2 * 60
    assert alarms["bootstrap-t"] <= 0.15 * 60
    assert float(found["skewness"].mean()) > 1


def test_cells_that_some_units_lack_rest_on_the_others(result: Simulated) -> None:
    effect = np.random.default_rng(3).normal(1.0, 1.0, (16, 3))
    effect[10:, 1] = np.nan
    effect[1:, 2] = np.nan
    found = stats.test(result(effect), cluster=None)
    alone = stats.test(result(effect[:10, 1:2]), cluster=None)
    assert float(found["t"][1]) == pytest.approx(float(alone["t"][0]))
    assert found["units"].values.tolist() == [16, 10, 1]
    assert np.isnan(found["p"].values).tolist() == [False, False, True]
    assert abs(float(found["p_cell"][1]) - float(alone["p_cell"][0])) < 0.01


def test_templates_are_units_where_there_are_enough(result: Simulated) -> None:
    effect = np.random.default_rng(5).normal(1.0, 1.0, (40, 2))
    many = result(effect, template=[f"t{i % 10}" for i in range(40)])
    assert stats.test(many).attrs["units"] == 10
    assert "40 prompts are 10 independent units (prompts of a template count once)" in stats.summary(many)
    assert stats.test(result(effect, template=[f"t{i % 9}" for i in range(40)])).attrs["units"] == 40


def test_mirrored_prompts_are_one_unit() -> None:
    model = interp.load("tiny-ioi")
    effects = interp.patch(model, interp.tasks.ioi(model, n=16, seed=0), "z", progress=False)
    assert effects["unit"].values.tolist() == [i // 2 for i in range(16)]
    assert stats.test(effects).attrs["units"] == 8


def test_power() -> None:
    """The figures of the exact noncentral t."""
    assert [stats.power(e, 1.0) for e in (0.3, 0.5, 0.8)] == [90, 34, 15]
    assert [stats.power(e, 1.0, cells=144) for e in (0.3, 0.5, 0.8)] == [224, 85, 37]


def test_power_is_the_exact_one() -> None:
    """Against an integral over the spread that units happen to have, and the approximation to one unit."""
    for size, cells, power in (
        (0.3, 1, 0.8),
        (0.5, 144, 0.9),
        (0.8, 20, 0.8),
        (1.5, 1, 0.8),
        (3.0, 500, 0.5),
    ):
        alpha = 0.05 / cells

        def chance(n: int, size: float = size, alpha: float = alpha) -> float:
            bound, shift = student.ppf(1 - alpha / 2, n - 1), size * np.sqrt(n)
            spread = np.sqrt(chi2.ppf((np.arange(20_000) + 0.5) / 20_000, n - 1) / (n - 1))
            return (norm.sf(bound * spread - shift) + norm.cdf(-bound * spread - shift)).mean()

        n = stats.power(-2 * size, 2.0, cells=cells, power=power)
        assert chance(n) >= power > chance(n - 1)
        z = norm.ppf(1 - alpha / 2)
        if size < 1:
            assert abs(n - np.ceil((z + norm.ppf(power)) ** 2 / size**2 + z**2 / 2)) <= 1
    with pytest.raises(ValueError, match=r"needs .* units: nobody will see it"):
        stats.power(1e-5, 1.0)


def test_effects_that_were_chosen_are_shown_on_prompts_that_did_not_choose(result: Simulated) -> None:
    """Noise: the largest of 200 cells look large where they were chosen, and are nothing on other prompts."""
    rng = np.random.default_rng(0)
    first, second = (
        result(rng.normal(size=(20, 10, 20)), dims=("prompt", "layer", "head"), task_fingerprint=name)
        for name in "ab"
    )
    found = stats.verify(first, second, top=5)
    assert found["cell"].values[0].startswith("layer ")
    assert float(abs(found["discovery"]).min()) > 0.4
    assert float(abs(found["estimate"]).mean()) < 0.3
    assert found.attrs["family"] == 5
    assert not found["significant"].any()
    best = first["value"].mean("prompt").stack(cell=("layer", "head"))
    largest = best[int(np.argmax(np.abs(best.values)))]
    layer, head = largest["cell"].values.item()
    assert found["cell"].values[0] == f"layer {layer}, head {head}"
    assert float(found["discovery"][0]) == pytest.approx(float(largest))
    own = second["value"].sel(layer=layer, head=head).mean()
    assert float(found["estimate"][0]) == pytest.approx(float(own))
    with pytest.raises(ValueError, match="some prompts are in both results"):
        stats.verify(first, first)
    with pytest.raises(ValueError, match="the results are over other cells"):
        stats.verify(first, second.isel(layer=[0, 1]))


def test_significant_cells_are_verified_however_many(result: Simulated) -> None:
    """Three of 20 cells have an effect: they are chosen, and are there on other prompts. Of noise none is."""
    rng = np.random.default_rng(0)
    first, second = (
        result(
            rng.normal(size=(16, 20)) + 2.0 * (np.arange(20) < 3), dims=("prompt", "head"), task_fingerprint=n
        )
        for n in "ab"
    )
    found = stats.verify(first, second, top=None)
    assert sorted(found["cell"].values) == ["head 0", "head 1", "head 2"]
    assert found["significant"].all()
    assert found.attrs["family"] == 3
    none = result(rng.normal(size=(16, 20)), dims=("prompt", "head"), task_fingerprint="c")
    with pytest.raises(ValueError, match=r"no cell of discovery is significant at level 0.95: .* top=10"):
        stats.verify(none, second, top=None)


def test_summary_says_what_cannot_be_concluded(result: Simulated) -> None:
    few = stats.summary(with_units(result, np.random.default_rng(3).normal(5, 1, (8, 3))))
    assert "8 prompts are 4 independent units" in few
    assert "no p can be below 0.125" in few
    assert "6 units are the least" in few
    many = stats.summary(with_units(result, np.random.default_rng(3).normal(5, 1, (40, 3))))
    assert "of 3 cells 3 differ from 0" in many
    assert "The smallest p that 20 units can give is 0.0001." in many
    assert "would have been found in a typical cell with a chance of 80 %; half of it needs" in many
    assert "picked and shown on the same prompts" in many
    skewed = stats.summary(result(np.random.default_rng(4).exponential(size=(40, 30)) - 1), cluster=None)
    assert "are skewed" in skewed
    assert "By the bootstrap-t" in skewed
    effect = np.random.default_rng(3).normal(5, 1, (40, 3))
    for part, words in (("discovery", "inflated"), ("verification", "honest for cells chosen on")):
        assert words in stats.summary(result(effect, part=part))
    assert "was chosen on the same prompts" in stats.summary(result(effect, selected_on="the same prompts"))
    assert "small effects are rounding" in stats.summary(result(effect, dtype="bfloat16"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cluster": "templat"}, "cluster is 'templat', but the coordinates on prompts are"),
        ({"level": 1.5}, "level is 1.5"),
        (
            {"method": "flip"},
            "method is 'flip'; it must be one of sign-flip, bootstrap-t; did you mean 'sign-flip'",
        ),
        ({"n": 10}, "n is 10; a p needs at least 99 draws"),
    ],
)
def test_wrong_arguments(result: Simulated, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stats.test(with_units(result, np.ones((4, 2))), **arguments)
    with pytest.raises(ValueError, match="1 unit of prompts; a test needs at least two"):
        stats.test(with_units(result, np.ones((2, 2))))
