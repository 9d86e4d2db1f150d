"""Agreement scores against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from interp import stats


def pair(noise: float = 0.3, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(6, 40)) + rng.normal(size=40)
    return scale * exact + noise * rng.normal(size=exact.shape), exact


def test_scores_are_those_of_scipy_on_prompt_means(result) -> None:
    a, b = pair()
    found = stats.agreement(result(a), result(b)).sel(cells="all")
    a, b = a.mean(0), b.mean(0)
    assert float(found["pearson"]) == pytest.approx(scipy.stats.pearsonr(a, b)[0])
    assert float(found["spearman"]) == pytest.approx(scipy.stats.spearmanr(a, b)[0])
    assert float(found["slope"]) == pytest.approx(scipy.stats.linregress(b, a).slope)
    assert float(found["relative_l1"]) == pytest.approx(np.abs(a - b).sum() / np.abs(b).sum())
    assert float(found["sign"]) == (np.sign(a) == np.sign(b)).mean()
    assert int(found["n_cells"]) == 40


def test_a_scaled_copy_agrees_in_all_but_scale(result) -> None:
    a, b = pair(noise=0.0, scale=0.5)
    found = stats.agreement(result(a), result(b))
    for name in ("pearson", "spearman", "sign"):
        np.testing.assert_allclose(found[name], 1.0)
    np.testing.assert_allclose(found["recall"], 1.0)
    np.testing.assert_allclose(found["slope"], 0.5)
    np.testing.assert_allclose(found["relative_l1"], 0.5)


def test_recall_counts_the_shared_largest_cells(result) -> None:
    b = np.array([[9.0, -8.0, 7.0, 1.0, 0.5, 0.1]])
    a = np.array([[9.0, 0.0, 7.0, -8.0, 0.5, 0.1]])
    found = stats.agreement(result(a), result(b), top_k=(1, 2, 3, 6)).sel(cells="all")
    np.testing.assert_allclose(found["recall"], [1.0, 0.5, 2 / 3, 1.0])


def test_one_large_cell_carries_pearson_and_leaving_it_out_shows_it(result) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(1, 60)), rng.normal(size=(1, 60))
    a[0, 7] = b[0, 7] = 100.0
    found = stats.agreement(result(a), result(b))
    assert found["pearson"].sel(cells="all") > 0.98
    assert abs(found["pearson"].sel(cells="without largest")) < 0.4
    assert found["n_cells"].values.tolist() == [60, 59]


def test_dead_cells_do_not_count(result) -> None:
    a, b = pair()
    dead = np.zeros((6, 500))
    missing = np.full((6, 3), np.nan)
    padded = [result(np.hstack([x, dead, missing])) for x in (a, b)]
    xr.testing.assert_allclose(stats.agreement(*padded), stats.agreement(result(a), result(b)))


def test_metrics_are_compared_one_by_one(result) -> None:
    a, b = pair()
    dims = ("prompt", "cell", "metric")
    found = stats.agreement(result(np.stack([a, -b], -1), dims=dims), result(np.stack([b, b], -1), dims=dims))
    np.testing.assert_allclose(found["pearson"].sel(metric="metric1"), -1.0)
    alone = stats.agreement(result(a), result(b))
    np.testing.assert_allclose(found["pearson"].sel(metric="metric0"), alone["pearson"])


def test_means_may_be_compared_with_means(result) -> None:
    a, b = (result(x) for x in pair())
    xr.testing.assert_allclose(stats.agreement(stats.mean(a), stats.mean(b)), stats.agreement(a, b))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.assign_attrs(direction="noise"), "differ in direction: 'denoise' and 'noise'"),
        (lambda r: r.assign_attrs(metric="kl"), "differ in metric"),
        (lambda r: r.isel(cell=slice(5)), "different dims"),
        (lambda r: r.rename(cell="head"), "different dims"),
        (lambda r: r.assign_coords(cell=r["cell"] + 1), "different coordinates along 'cell'"),
        (lambda r: r.assign(value=r["value"] * 0 + np.nan), "NaN in one result"),
    ],
)
def test_only_like_is_compared_with_like(result, change, says: str) -> None:
    given = result(pair()[0])
    with pytest.raises(ValueError, match=says):
        stats.agreement(given, change(given))


def test_too_few_live_cells(result) -> None:
    with pytest.raises(ValueError, match="2 live cells"):
        stats.agreement(result(np.eye(2)), result(np.eye(2)))
