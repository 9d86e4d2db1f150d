"""The picture of probes: held-out accuracy beside what shuffled labels give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from interp import plot


def result(by_head: bool = False, n_layers: int = 4, n_heads: int = 3, draws: int = 20) -> xr.Dataset:
    """As probes.fit returns it."""
    rng = np.random.default_rng(0)
    dims = ("layer", "head") if by_head else ("layer",)
    shape = (n_layers, n_heads) if by_head else (n_layers,)
    found = {name: (dims, rng.uniform(0.5, 1, shape)) for name in ("accuracy", "auroc", "p_value", "ece")}
    found["control"] = (("draw", *dims), rng.normal(0.5, 0.1, (draws, *shape)))
    sizes = dict(zip(dims, shape))
    attrs = {
        "method": "probe",
        "site": "z" if by_head else "resid_pre",
        "reads": "last token",
        "model": "toy",
    }
    return xr.Dataset(
        found, {dim: np.arange(n) for dim, n in sizes.items()}, {**attrs, "n_train": 9, "n_held_out": 4}
    )


def test_by_layer_a_line_over_the_band_of_the_control() -> None:
    data = result()
    band, control, line = plot.probes(data).data
    np.testing.assert_allclose(line.y, data["accuracy"])
    np.testing.assert_allclose(control.y, data["control"].mean("draw"))
    low, high = (data["control"].quantile(q, "draw").values for q in (0.05, 0.95))
    np.testing.assert_allclose(band.y, [*high, *low[::-1]])
    np.testing.assert_allclose(line.x, [0, 1, 2, 3])


def test_the_axis_holds_everything_that_is_drawn() -> None:
    data = result()
    data["accuracy"][1] = 0.12
    low, high = plot.probes(data).layout.yaxis.range
    assert low < 0.12
    assert high > 1


def test_by_head_two_maps_on_one_scale() -> None:
    data = result(by_head=True)
    figure = plot.probes(data)
    probe, control = figure.data
    np.testing.assert_allclose(probe.z, data["accuracy"])
    np.testing.assert_allclose(control.z, data["control"].quantile(0.95, "draw"))
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.5, 1.0)
    assert probe.hovertext[2][1].startswith(
        f"<b>L2H1</b><br>probe: accuracy {float(data['accuracy'][2, 1]):.3f}"
    )
    assert f"p {float(data['p_value'][2, 1]):.3f}" in probe.hovertext[2][1]
    assert "20 shuffles" in figure.layout.title.subtitle.text


def test_other_data_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks control"):
        plot.probes(result().drop_vars("control"))
    with pytest.raises(ValueError, match="lacks the dim layer"):
        plot.probes(result().isel(layer=0))


def test_both_pictures_can_be_rendered(browser: None, tmp_path: Path) -> None:
    paths = [tmp_path / "layers.png", tmp_path / "heads.png"]
    plot.save_image([plot.probes(result()), plot.probes(result(by_head=True))], paths, scale=1.0)
    assert all(path.stat().st_size > 8_000 for path in paths)
