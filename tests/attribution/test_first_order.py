"""Attribution patching is the first-order change: exact on a linear model, the slope on any, O(δ²) off."""

from __future__ import annotations

import numpy as np
import pytest
import small
from cases import QUIET, task
from estimates import FEW, covering, finite_difference, linear_toy, model_of
from sides import grids

import interp
from interp.ablation import Gaussian
from interp.attribution import attribute
from interp.models import anatomy
from interp.places import AXES

LINEAR = [["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"], ["z", "v"], ["post"]]
DIRECTIONS = ["denoise", "noise"]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sites", LINEAR, ids="-".join)
def test_linear_model_is_estimated_exactly(sites, direction):
    model = linear_toy()
    for by in grids(sites[0])[:2]:
        exact = interp.patch(model, task(), sites, by, direction=direction, **QUIET)["value"]
        estimate = attribute(model, task(), sites, by, direction=direction, **QUIET)["value"]
        size = abs(exact).max(set(exact.dims) - {"site"})
        assert float(size.min()) > 0.1
        assert float((abs(estimate - exact) / size).max()) <= 1e-12


@pytest.mark.parametrize("corruption", ["zero", "mean"])
def test_ablations_of_a_linear_model(corruption):
    model = linear_toy()
    for site in ("z", "mlp_out"):
        exact = interp.patch(model, task(), site, "layer", ablation=corruption, **QUIET)["value"]
        estimate = attribute(model, task(), site, "layer", ablation=corruption, **QUIET)["value"]
        np.testing.assert_allclose(estimate, exact, atol=1e-11 * float(abs(exact).max()))
        assert abs(exact).max() > 0.1


@pytest.mark.parametrize("name", FEW)
def test_every_site_against_finite_differences(name):
    direction = DIRECTIONS[FEW.index(name) % 2]
    _against_finite_differences(model_of(name), direction, step=1e-6, tolerance=1e-6)


@pytest.mark.parametrize(
    ("family", "direction"), [("gpt2", "denoise"), ("llama", "denoise"), ("neox", "noise")]
)
def test_every_site_of_a_bridge_against_finite_differences(family, direction):
    single = family == "llama"  # its norms compute in float32
    _against_finite_differences(
        small.bridge(family), direction, step=3e-3 if single else 1e-6, tolerance=3e-3 if single else 1e-6
    )


def _against_finite_differences(model, direction, step, tolerance):
    pairs = task(n=2)
    for axes in sorted({AXES[site] for site in anatomy(model).sites()}):
        sites = [site for site in anatomy(model).sites() if AXES[site] == axes]
        by = grids(sites[0])[0 if direction == "noise" else 1]
        found = attribute(model, pairs, sites, by, direction=direction, **QUIET)["value"]
        for site in sites:
            estimate = found.sel(site=site)
            cell, size = _largest(estimate)
            assert size > 1e-4, site
            slope = finite_difference(model, pairs, site, cell, direction, step)
            np.testing.assert_allclose(
                estimate.sel(cell), slope, rtol=0, atol=tolerance * max(size, 1), err_msg=f"{site} {cell}"
            )


def _largest(estimate):
    """The cell with the largest estimate by its coordinates, and its size."""
    size = abs(estimate).max("prompt")
    at = np.unravel_index(np.nanargmax(size), size.shape)
    return dict(zip(size.dims, map(int, at))), float(size.max())


@pytest.mark.parametrize("name", covering(2))
def test_error_is_second_order_in_the_change(name):
    """Half the noise on the embeddings, a quarter of the error against patching (kinks of ReLU aside)."""
    model = model_of(name)
    sites = anatomy(model).sites()
    errors = []
    for sigma in (2e-4, 1e-4):
        noise, options = Gaussian(sigma=sigma, draws=1), {"by": "layer", **QUIET}
        exact = interp.patch(model, task(n=2), sites, ablation=noise, **options)["value"]
        estimate = attribute(model, task(n=2), sites, ablation=noise, **options)["value"]
        errors.append(abs(estimate - exact).max(("prompt", "layer")).values)
        assert (errors[-1] < 0.05 * abs(exact).max(("prompt", "layer")).values + 1e-12).all()
    above_rounding = errors[0] > 1e-11
    ratio = (errors[0] / errors[1])[above_rounding]
    assert above_rounding.sum() >= 6
    assert "relu" in name or ((ratio > 3) & (ratio < 5.5)).all(), dict(zip(sites, ratio))
