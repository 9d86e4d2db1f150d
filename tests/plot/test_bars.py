"""Bars: the largest cells in order, with their intervals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp import plot, stats

BLUE, RED = "#2166ac", "#b2182b"


def test_cells_are_sorted_by_size_and_coloured_by_sign(result) -> None:
    data = result()
    (trace,) = plot.bars(data, top=6).data
    mean = data["value"].mean("prompt").values.ravel()
    np.testing.assert_allclose(trace.x, mean[np.argsort(-np.abs(mean))[:6]], rtol=1e-5)
    assert list(trace.marker.color) == [BLUE if v > 0 else RED for v in trace.x]
    assert len(set(trace.marker.color)) == 2


def test_the_error_bars_are_the_interval(result) -> None:
    data = result()
    fig = plot.bars(data, top=1)
    found = stats.bootstrap(data)
    at = np.abs(found["estimate"]).argmax(...)
    errors = fig.data[0].error_x
    np.testing.assert_allclose(fig.data[0].x + errors.array, float(found["high"][at]), rtol=1e-5)
    np.testing.assert_allclose(fig.data[0].x - errors.arrayminus, float(found["low"][at]), rtol=1e-5)
    assert fig.layout.yaxis.ticktext == (f"L{int(at['layer'])}H{int(at['head'])}",)


@pytest.mark.parametrize(
    ("by", "site", "name"),
    [
        (("layer", "head"), "q", "L2H1.q"),
        (("layer", "pos"), "resid_pre", "L2.resid_pre@1  ·When"),
        (("layer", "neuron"), "post", "L2N1"),
        (("layer", "head", "dst", "src"), "pattern", "L2H1.pattern@1&lt;-1"),
        (("layer",), "mlp_out", "MLP2"),
    ],
)
def test_names_of_cells(result, by: tuple[str, ...], site: str, name: str) -> None:
    data = result(by=by, site=site)
    data["value"][:] = 0.01
    data["value"][{dim: 2 if dim == "layer" else 1 for dim in by}] = 5.0
    fig = plot.bars(data, top=2)
    assert fig.layout.yaxis.ticktext[0] == name
    assert fig.data[0].x[0] == 5.0


def test_a_list_of_cells_keeps_its_names(result) -> None:
    data = result(by=("cell",), sizes={"cell": 2, "layer": 1}).assign_coords(cell=["L0H1 + L0H2", "MLP1"])
    assert set(plot.bars(data).layout.yaxis.ticktext) == {"L0H1 + L0H2", "MLP1"}


def test_sites_are_part_of_the_name(result) -> None:
    ticks = plot.bars(result(sites=("q", "z")), top=40).layout.yaxis.ticktext
    assert {"L2H0", "L2H0.q"} <= set(ticks)


def test_missing_cells_are_not_drawn(result) -> None:
    data = result(by=("cell",), sizes={"cell": 4, "layer": 1})
    data["value"][:] = np.array([np.nan, 1.0, -3.0, np.nan])
    assert plot.bars(data, top=4).data[0].x.tolist() == [-3, 1]


def test_readouts_have_bars_and_their_own_word(result) -> None:
    data = result(by=("component",), sizes={"component": 3, "layer": 1}, method="direct", direction="none")
    data = data.drop_vars(["clean", "corrupt"]).assign_coords(component=["embed", "L0H1", "bias"])
    fig = plot.bars(data)
    assert set(fig.layout.yaxis.ticktext) == {"embed", "L0H1", "bias"}
    assert fig.layout.title.text == "<b>Direct effects: the 3 largest</b>"
    assert "direct logit attribution" in fig.layout.title.subtitle.text
    assert fig.layout.xaxis.title.text == "direct effect (logits)"
    assert fig.data[0].error_x.array is not None


def test_one_prompt_has_no_error_bars(result) -> None:
    fig = plot.bars(result(n_prompts=1))
    assert fig.data[0].error_x.array is None
    assert "interval" not in fig.layout.title.subtitle.text
    with pytest.raises(ValueError, match="at least 1"):
        plot.bars(result(), top=0)


def test_runs_go_by_their_names() -> None:
    from interp.plot._cells import cell_names

    value = xr.DataArray([1.0, 2.0], dims="run", coords={"run": ["mean, random", "prompt"]})
    assert cell_names(value, {}, [(0,), (1,)]) == ["mean, random", "prompt"]
    other = value.rename(run="relation")
    assert cell_names(other, {}, [(1,)]) == ["relation prompt"]
