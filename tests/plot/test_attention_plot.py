"""Pictures of attention: every head's pattern in its tile, blank where nothing is seen, and light."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import interp
from interp import heads, plot

N_LAYERS, N_HEADS, N = 12, 12, 20


def made(
    n_layers: int = N_LAYERS, n_heads: int = N_HEADS, n: int = N, length: int | None = None
) -> xr.Dataset:
    rng = np.random.default_rng(0)
    value = np.tril(rng.gamma(0.3, size=(2, n_layers, n_heads, n, n)) + 1e-3)
    value /= value.sum(-1, keepdims=True)
    if length is not None:
        value[:, :, :, length:] = value[..., length:] = np.nan
    tokens = np.array([[f" <w{i % 3}>" for i in range(n)]] * 2, dtype=object)
    coords = {"layer": range(n_layers), "head": range(n_heads), "dst": range(n), "src": range(n)}
    coords |= {"dst_token": (("prompt", "dst"), tokens), "src_token": (("prompt", "src"), tokens)}
    dims = ("prompt", "layer", "head", "dst", "src")
    return xr.Dataset({"value": (dims, value)}, coords, {"unit": "share of attention", "model": "toy"})


def test_the_mosaic_has_every_head_in_its_place_and_is_light() -> None:
    data = made()
    fig = plot.attention(data, prompt=1)
    (trace,) = fig.data
    for layer, head in ((0, 0), (3, 7), (11, 11)):
        tile = trace.z[layer * (N + 1) :, head * (N + 1) :][:N, :N]
        pattern = data["value"].values[1, layer, head]
        np.testing.assert_allclose(tile[np.tril_indices(N)], pattern[np.tril_indices(N)], rtol=1e-6)
        assert np.isnan(tile[np.triu_indices(N, 1)]).all()
    assert np.isnan(trace.z[N]).all()  # between two layers
    assert len(set(trace.x)) == len(trace.x) == trace.z.shape[1]
    assert len(fig.to_json()) < 1_500_000


def test_the_menu_enlarges_a_head() -> None:
    fig = plot.attention(made())
    buttons = {button.label: button.args[0] for button in fig.layout.updatemenus[0].buttons}
    assert len(buttons) == 1 + N_LAYERS * N_HEADS
    moved = buttons["L2H5"]
    left, right = moved["xaxis.range"]
    bottom, top = moved["yaxis.range"]
    tile = fig.data[0].z[int(top + 0.5) : int(bottom + 0.5), int(left + 0.5) : int(right + 0.5)]
    np.testing.assert_allclose(np.nan_to_num(tile), made()["value"].values[0, 2, 5], rtol=1e-6)
    assert moved["xaxis.ticktext"][1] == "·&lt;w1&gt;"
    assert list(buttons["all heads"]["yaxis.range"]) == list(fig.layout.yaxis.range)


def test_a_few_heads_have_their_tokens() -> None:
    data = made(length=6)
    fig = plot.attention(data, heads=["L3H2", "L0H1"])
    assert [note.text for note in fig.layout.annotations] == ["<b>L3H2</b>", "<b>L0H1</b>"]
    first, second = fig.data
    pattern = data["value"].values[0, 3, 2, :6, :6]
    np.testing.assert_allclose(np.nan_to_num(first.z), pattern, rtol=1e-6)
    assert np.isnan(first.z[0, 1])
    assert first.x == first.y == tuple(f"{i} ·&lt;w{i % 3}&gt;" for i in range(6))  # six columns, three words
    assert fig.layout.xaxis.ticktext[:2] == ("·&lt;w0&gt;", "·&lt;w1&gt;")
    assert fig.layout.coloraxis.cmax == 1.0
    assert (second.z <= 1).sum() == 21
    many = plot.attention(made(1, 4, n=50), layer=0)
    assert 5 < len(many.layout.xaxis.ticktext) < 40


def test_of_a_model_and_weighted_by_values() -> None:
    model = interp.load("tiny-ioi")
    text = "When Mary and John went to the store"
    fig = plot.attention(model, text, layer=1, weighting="value", theme="dark")
    weighted = heads.attention(model, text, layer=1, weighting="value")
    np.testing.assert_allclose(np.nan_to_num(fig.data[2].z), weighted["value"].values[0, 0, 2], rtol=1e-5)
    assert fig.layout.coloraxis.cmax == pytest.approx(float(weighted["value"].max()), rel=1e-5)
    assert "norm" in fig.layout.title.subtitle.text
    assert "tiny-ioi" in fig.layout.title.subtitle.text
    assert fig.layout.template.layout.paper_bgcolor == "#14181d"


def test_attention_that_goes_both_ways_is_not_cut() -> None:
    data = made(1, 1, n=4)
    data["value"][:] = 0.25
    assert np.isfinite(plot.attention(data).data[0].z).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["L0H12"]}, r"head 'L0H12' is not there.* There are L0H0 to L11H11"),
        ({"layer": 12}, "layer 12 is not there"),
        ({"prompt": 2}, "prompt is 2; the result has prompts 0 to 1"),
        ({"theme": "night"}, "theme is 'night'"),
    ],
)
def test_what_is_not_there(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.attention(made(), **options)


def test_what_is_no_attention(result) -> None:
    with pytest.raises(ValueError, match="this one lacks dst, src"):
        plot.attention(result())
    with pytest.raises(ValueError, match="a model with prompts, not a ndarray alone"):
        plot.attention(np.zeros((3, 3)))
