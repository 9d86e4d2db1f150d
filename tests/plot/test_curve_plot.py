"""The picture of faithfulness by size: points at true sizes, intervals, a band, and like with like only."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from interp import plot

RECIPE = {
    "model": "m", "task": "ioi", "task_fingerprint": "f", "ablation": "resample", "metric": "logit_diff",
    "direction": "noise",
}  # fmt: skip


def curves(name: str = "exact", **attrs: str) -> xr.Dataset:
    values = np.array([[0.0, 0.4, 1.1], [0.0, 0.7, 1.0]])
    dims = ("ranking", "size")
    variables = {"faithfulness": values, "low": values - 0.1, "high": values + 0.2}
    variables["edges"] = np.array([[0, 12, 50], [0, 20, 50]])
    data = {key: (dims, value) for key, value in variables.items()}
    coords = {"ranking": ["signed", "absolute"], "size": [0.1, 0.5, 1.0]}
    return xr.Dataset(data, coords, {**RECIPE, "n_edges": 100, "scores": name, **attrs})


def random() -> xr.Dataset:
    return xr.Dataset(
        {
            "faithfulness": (("size", "draw"), np.array([[0.0, 0.1], [0.3, 0.5]])),
            "edges": (("size", "draw"), np.array([[10, 12], [40, 44]])),
            "quantile": (("size", "level"), np.array([[0.0, 0.1], [0.3, 0.5]])),
        },
        {"size": [10, 40], "level": [0.05, 0.95]},
        {**RECIPE, "kind": "paths"},
    )


def test_points_stand_at_true_sizes_with_their_intervals() -> None:
    line = plot.curve(curves()).data[0]
    np.testing.assert_allclose(line.x, [20, 50])  # a circuit without edges has no place on a log axis
    np.testing.assert_allclose(line.y, [0.7, 1.0])
    np.testing.assert_allclose(line.error_y.array, [0.2, 0.2])
    np.testing.assert_allclose(line.error_y.arrayminus, [0.1, 0.1])
    signed = plot.curve(curves(), ranking="signed").data[0]
    np.testing.assert_allclose(signed.y, [0.4, 1.1])


def test_several_methods_and_a_band() -> None:
    figure = plot.curve({"eap": curves(), "<b>": curves()}, random=random())
    assert [trace.name for trace in figure.data] == [
        "random circuits (paths), 5 % to 95 %",
        "eap",
        "&lt;b&gt;",
    ]
    band = figure.data[0]
    np.testing.assert_allclose(sorted(set(band.x)), [11, 42])
    np.testing.assert_allclose(sorted(band.y), [0.0, 0.1, 0.3, 0.5])


def test_only_like_with_like() -> None:
    with pytest.raises(ValueError, match="differ in ablation: resample, zero"):
        plot.curve({"a": curves(), "b": curves(ablation="zero")})
    with pytest.raises(ValueError, match="no curve"):
        plot.curve({})
