"""Pictures of subspaces: the numbers drawn are those of the search, where they should be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from interp import plot

ATTRS = {
    "variable": "subject", "site": "L1.resid_pre", "rank": 2, "featuriser": "das", "model": "toy",
    "task": "ioi", "judged": "the expected answer is neither prompt's own",
}  # fmt: skip
NAMES = ["none", "whole", "subspace", "random", "pca"]


def scan() -> xr.Dataset:
    values = np.arange(6.0).reshape(2, 3) / 10
    variables = {"raw": values, "control": values / 2, "whole": values + 0.4, "none": 0 * values}
    data = {name: (("layer", "pos"), each) for name, each in variables.items()}
    return xr.Dataset(data, {"layer": [1, 3], "pos": ["s1", "s2", "end"]}, ATTRS)


def search(rank: int = 2, levels: int = 3) -> Any:
    right = np.zeros((10, 5))
    for column, share in enumerate((0, 10, 9, 2, 5)):
        right[:share, column] = 1
    table = xr.Dataset({"raw": (("pair", "exchange"), right)}, {"exchange": NAMES}, ATTRS | {"rank": rank})
    points = np.random.default_rng(0).normal(size=(24, rank))
    names = np.array([f"n{i % levels:02}" for i in range(24)], dtype=object)
    projection = xr.Dataset(
        {"value": (("prompt", "direction"), points), "share": ("direction", np.full(rank, 0.3))},
        {"level": ("prompt", names)},
    )
    return SimpleNamespace(table=table, projection=projection, losses=(2.0, 1.0, 0.5))


def test_places_are_three_maps_on_one_scale() -> None:
    data = scan()
    fig = plot.subspace(data)
    for trace, name in zip(fig.data, ("raw", "control", "whole")):
        assert np.array_equal(trace.z, data[name].values)
        assert list(trace.y) == [1, 3]
        assert trace.coloraxis == "coloraxis"
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)
    assert [note.text for note in fig.layout.annotations] == [
        "<b>subspace</b>", "<b>best null</b>", "<b>whole site</b>",
    ]  # fmt: skip
    assert fig.layout.xaxis.ticktext == ("s1", "s2", "end")
    assert "subject" in fig.layout.title.text
    assert "L3, s2" in fig.data[0].hovertext[1][1]


def test_a_search_is_bars_losses_and_prompts() -> None:
    found = search()
    bars, losses, *dots = plot.subspace(found).data
    assert dict(zip(bars.y, bars.x)) == pytest.approx(
        {"subspace": 0.9, "no exchange": 0, "whole site": 1, "random": 0.2, "pca": 0.5}
    )
    assert len({bars.marker.color[0], bars.marker.color[3], bars.marker.color[4]}) == 3
    assert tuple(losses.y) == found.losses
    assert [trace.name for trace in dots] == ["n00", "n01", "n02"]
    mine = found.projection["level"].values == "n01"
    assert np.array_equal(dots[1].x, found.projection["value"].values[mine, 0])
    assert np.array_equal(dots[1].y, found.projection["value"].values[mine, 1])


def test_one_direction_and_many_values() -> None:
    fig = plot.subspace(search(rank=1))
    assert tuple(fig.layout.yaxis3.ticktext) == ("n00", "n01", "n02")
    assert "1 direction of" in fig.layout.title.text
    many = plot.subspace(search(levels=12))
    assert not many.layout.showlegend
    assert list(many.data[-1].text) == [f"n{i:02}" for i in range(12)]


def test_what_is_no_search_is_said() -> None:
    with pytest.raises(ValueError, match="lacks control"):
        plot.subspace(scan().drop_vars("control"))
    with pytest.raises(ValueError, match="a str is no search"):
        plot.subspace("scan")  # type: ignore[arg-type]
