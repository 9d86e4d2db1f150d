"""Screening: what is verified is exact, and the bound on what was missed holds."""

from __future__ import annotations

import numpy as np
import pytest
import small
from cases import QUIET, task
from scipy.stats import binomtest, hypergeom

import interp
from interp.attribution import attribute, screen
from interp.attribution._screen import choose_cells, missed_at_most
from interp.tasks import LogitDiff, LogProb


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "by"),
    [("z", ("layer", "pos", "head")), ("resid_mid", None), ("pattern", ("layer", "head", "dst", "src"))],
)
def test_verified_cells_are_exact(model, site, by, direction):
    options = {"direction": direction, **QUIET}
    found = screen(model, task(), site, 12, by, method="atp", **options)
    exact = interp.patch(model, task(), site, by, **options)
    estimate = attribute(model, task(), site, by, **options)
    assert found["value"].dims == exact["value"].dims
    np.testing.assert_allclose(found["estimate"], estimate["value"], atol=1e-12)
    np.testing.assert_allclose(found["clean"], exact["clean"], atol=1e-12)
    verified, no_op = found["group"].isin([1, 2]), found["group"] == 3
    assert int(verified.sum()) == 12
    assert (found["value"].isnull().any("prompt") == (found["group"] == 0)).all()
    np.testing.assert_allclose(
        found["value"].where(verified | no_op, 0), exact["value"].where(verified | no_op, 0), atol=1e-12
    )
    assert (exact["value"].where(no_op, 0) == 0).all()
    assert int(no_op.sum()) > 0
    size = abs(found["estimate"].mean("prompt"))
    assert float(size.where(found["group"] == 1).min()) >= float(size.where(found["group"] == 0).max())


def test_counts_and_bound(model):
    found = screen(model, task(), "post", 40, method="atp", threshold=0.05, sample=0.5, **QUIET)
    group, exact = found["group"].values, abs(found["value"].mean("prompt")).values
    assert (group == 1).sum() == (group == 2).sum() == 20
    assert found.attrs["sampled"] == 20
    assert found.attrs["unverified"] == (group == 0).sum() == 3 * 40 - 40
    assert found.attrs["above"] == (exact >= 0.05).sum()
    assert found.attrs["above_in_sample"] == (exact[group == 2] >= 0.05).sum()
    assert found.attrs["missed_at_most"] == missed_at_most(found.attrs["above_in_sample"], 20, 100, 0.95)
    every = abs(interp.patch(model, task(), "post", **QUIET)["value"].mean("prompt")).values
    assert (every[group == 0] >= 0.05).sum() <= found.attrs["missed_at_most"]
    assert found.attrs["method"] == "screen (atp)"


def test_a_budget_for_everything_misses_nothing(model):
    found = screen(model, task(), "z", 1000, method="atp", **QUIET)
    np.testing.assert_allclose(found["value"], interp.patch(model, task(), "z", **QUIET)["value"], atol=1e-12)
    assert found.attrs["missed_at_most"] == found.attrs["unverified"] == 0


def test_the_threshold_is_a_share_of_the_gap(model):
    found = screen(model, task(), "z", 6, method="atp", **QUIET)
    assert found.attrs["threshold"] == pytest.approx(
        0.05 * float(abs(found["clean"] - found["corrupt"]).mean())
    )


def test_the_sample_is_seeded_and_spares_no_ops():
    size, live = np.arange(100.0), np.arange(100) % 2 == 0
    one, same, other = (choose_cells(size, live, 20, 0.5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_array_equal(np.flatnonzero(one == 1), np.arange(80, 100, 2))
    assert (one[~live] == 3).all()
    assert (one == 2).sum() == 10


@pytest.mark.parametrize(("above", "sampled", "population"), [(0, 30, 200), (3, 30, 1000), (29, 30, 100)])
def test_bound_is_clopper_pearson(above, sampled, population):
    upper = binomtest(above, sampled, alternative="less").proportion_ci(0.95, method="exact").high
    wanted = min(int(np.floor(upper * population)) - above, population - sampled)
    assert missed_at_most(above, sampled, population, 0.95) == wanted
    assert missed_at_most(sampled, sampled, population, 0.95) == population - sampled
    assert missed_at_most(0, population, population, 0.95) == 0


@pytest.mark.parametrize(("population", "sampled"), [(60, 15), (200, 30), (40, 39)])
def test_bound_holds_whatever_the_truth(population, sampled):
    """For every number of large cells: the probability that the bound covers those left out, by counting."""
    for large in range(population + 1):
        drawn = np.arange(max(0, sampled - (population - large)), min(large, sampled) + 1)
        chance = hypergeom(population, large, sampled).pmf(drawn)
        covered = [missed_at_most(int(x), sampled, population, 0.95) >= large - x for x in drawn]
        assert chance[covered].sum() >= 0.95 - 1e-9, large


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": ["z", "q"]}, "one site at a time"),
        ({"budget": 0}, "budget is 0"),
        ({"sample": 1.5}, "sample is 1.5"),
        ({"level": 1.0}, "level is 1.0"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"site": "zz"}, "unknown site 'zz'"),
    ],
)
def test_wrong_arguments(model, monkeypatch, arguments, message):
    monkeypatch.setattr(type(model), "forward", None)
    with pytest.raises(ValueError, match=message):
        screen(model, task(), **({"site": "z", "budget": 5, "method": "atp"} | arguments), **QUIET)


@pytest.mark.parametrize("by", [None, ("layer", "pos", "head")])
def test_several_metrics_share_what_is_measured(model, by):
    """Each metric has its own threshold and bound; values are those of patching."""
    metrics = [LogitDiff(), LogProb()]
    found = screen(model, task(), "z", 8, by, method="atp", metric=metrics, **QUIET)
    exact = interp.patch(model, task(), "z", by, metric=metrics, **QUIET)["value"]
    dims = exact.dims
    assert found["value"].dims == found["estimate"].dims == dims
    assert found["group"].dims == dims[1:-1]
    measured = found["value"].notnull().all(("prompt", "metric")) & (found["group"] != 3)
    assert int(measured.sum()) == 8
    np.testing.assert_allclose(found["value"].where(measured), exact.where(measured), atol=1e-9)
    for number, metric in enumerate(metrics):
        alone = screen(model, task(), "z", 8, by, method="atp", metric=metric, **QUIET)
        assert float(found.attrs["threshold"].split(", ")[number]) == pytest.approx(
            alone.attrs["threshold"], rel=1e-5
        )
        np.testing.assert_allclose(found["estimate"].sel(metric=metric.name), alone["estimate"], atol=1e-12)
    assert len(str(found.attrs["missed_at_most"]).split(", ")) == 2
