"""Patching by name: a span is its positions patched together, in prompts of any length; none is NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import small
from cases import QUIET

import interp
from interp import stats
from interp.tasks import Task

EXACT = 1e-12
SITES = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "q", "k", "v", "post")
NUMBER = {"verb": [2, 4, None, 1], "rest": [[3, 5], [1, 2, 6], [4], [0, 2]], "end": [-1] * 4}


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


def ragged(**options: Any) -> Task:
    """Four pairs of 5 to 9 random tokens that differ from the second on."""
    rng = np.random.default_rng(0)
    sizes = (9, 7, 6, 5)
    clean, corrupt = ([rng.integers(1, 30, size).tolist() for size in sizes] for _ in range(2))
    corrupt = [[one[0], *other[1:]] for one, other in zip(clean, corrupt)]
    spans = {**NUMBER, "whole": [range(size) for size in sizes]}
    return Task.from_tokens(
        clean=clean, corrupt=corrupt, answer=[3, 4, 5, 6], wrong=[15, 16, 17, 18], spans=spans, **options
    )


@pytest.mark.parametrize("site", SITES)
def test_engines_agree_and_the_whole_prompt_is_every_position(model: Any, site: str) -> None:
    options: dict[str, Any] = {"direction": ("denoise", "noise")[SITES.index(site) % 2], **QUIET}
    by = {"q": ("layer", "span", "head"), "post": ("layer", "span")}.get(site, ("layer", "span"))
    fast, slow = (
        interp.patch(model, ragged(), site, by, engine=each, **options) for each in ("fast", "reference")
    )
    np.testing.assert_allclose(fast["value"], slow["value"], atol=EXACT)
    assert abs(fast["value"].sel(span="rest")).max() > 1e-3
    whole = interp.patch(model, ragged(), site, [dim for dim in by if dim != "span"], **options)
    np.testing.assert_allclose(fast["value"].sel(span="whole"), whole["value"], atol=EXACT)


def test_a_span_is_its_positions_together(model: Any) -> None:
    """By name, and as a list of places patched together; one position alone, as that position."""
    task = ragged()
    for site in ("resid_pre", "k"):
        spans = interp.patch(model, task, site, ("layer", "span"), **QUIET)["value"]
        each = interp.patch(model, task, site, ("layer", "pos"), **QUIET)["value"]
        for prompt, (at, rest) in enumerate(zip(NUMBER["verb"], NUMBER["rest"])):
            if at is not None:
                np.testing.assert_allclose(
                    spans[prompt].sel(span="verb"), each[prompt].sel(pos=at), atol=EXACT
                )
            together = [[f"L{layer}.{site}@{pos}" for pos in rest] for layer in range(3)]
            same = interp.patch(model, task[prompt], cells=together, **QUIET)["value"][0]
            np.testing.assert_allclose(spans[prompt].sel(span="rest"), same, atol=EXACT)


def test_a_prompt_without_the_span_is_nan_and_counted(model: Any) -> None:
    result = interp.patch(model, ragged(), "z", ("layer", "span", "head"), **QUIET)
    assert np.isnan(result["value"].sel(span="verb")[2]).all()
    assert int(np.isnan(result["value"]).sum()) == result["value"][2].sel(span="verb").size
    assert result["present"].values.tolist() == [3, 4, 4, 4]
    mean = stats.mean(result)["value"].sel(span="verb")
    np.testing.assert_allclose(mean, result["value"].sel(span="verb")[[0, 1, 3]].mean("prompt"))
    half = ragged()[:2] + ragged()[2:]
    joined = interp.patch(model, half, "z", ("layer", "span", "head"), **QUIET)
    np.testing.assert_allclose(joined["value"], result["value"], atol=EXACT)


def test_windows_draws_and_lists_take_spans(model: Any) -> None:
    task = ragged()
    for options in ({"window": 2}, {"ablation": interp.ablation.Gaussian(draws=2)}):
        fast, slow = (
            interp.patch(model, task, "attn_out", ("layer", "span"), engine=each, **options, **QUIET)
            for each in ("fast", "reference")
        )
        np.testing.assert_allclose(fast["value"], slow["value"], atol=EXACT)
        assert np.isnan(fast["value"].sel(span="verb")[2]).all()
    listed = interp.patch(model, task, cells=["L1H2@rest", ["L0.resid_pre@verb", "L1N3@end"]], **QUIET)
    heads = interp.patch(model, task, "z", ("layer", "span", "head"), **QUIET)["value"]
    np.testing.assert_allclose(listed["value"][:, 0], heads.sel(layer=1, head=2, span="rest"), atol=EXACT)
    assert np.isnan(listed["value"].values[:, 1]).tolist() == [False, False, True, False]


@pytest.mark.parametrize("method", ["atp", "ig", "atp*"])
def test_estimates_add_up_over_a_span(model: Any, method: str) -> None:
    task = ragged()
    options: dict[str, Any] = {
        "method": interp.methods.AtpStar(grad_drop=False) if method == "atp*" else method
    }
    spans, each = (
        interp.attribute(model, task, ("z", "q"), ("layer", dim), **options, **QUIET)["value"]
        for dim in ("span", "pos")
    )
    for prompt, rest in enumerate(NUMBER["rest"]):
        total = each[prompt].sel(pos=rest).sum("pos")
        np.testing.assert_allclose(spans[prompt].sel(span="rest"), total, atol=1e-12)
    assert np.isnan(spans[2].sel(span="verb")).all()
    keys = interp.attribute(model, task, "k", ("layer", "span"), **options, **QUIET)["value"].sel(
        span="whole"
    )
    np.testing.assert_allclose(keys, interp.attribute(model, task, "k", "layer", **options, **QUIET)["value"])


def test_keys_of_a_span_move_together_in_atp_star(model: Any) -> None:
    """The QK fix of a span that is one position is that of the position."""
    options: dict[str, Any] = {"method": interp.methods.AtpStar(grad_drop=False), **QUIET}
    spans = interp.attribute(model, ragged(), "k", ("layer", "span"), **options)["value"].sel(span="verb")
    each = interp.attribute(model, ragged(), "k", ("layer", "pos"), **options)["value"]
    for prompt in (0, 1, 3):
        np.testing.assert_allclose(spans[prompt], each[prompt].sel(pos=NUMBER["verb"][prompt]), rtol=1e-9)


def test_a_store_is_of_its_spans(model: Any, tmp_path: Any) -> None:
    store, by = tmp_path / "run.zarr", ("layer", "span")
    first = interp.patch(model, ragged(), "resid_pre", by, store=store, **QUIET)
    again = interp.patch(model, ragged(), "resid_pre", by, store=store, **QUIET)
    np.testing.assert_array_equal(first["value"], again["value"])
    other = Task.from_tokens(
        clean=ragged().clean, corrupt=ragged().corrupt, answer=[3, 4, 5, 6], wrong=[15, 16, 17, 18],
        lengths=ragged().lengths, spans={**ragged().spans, "verb": [3, 4, None, 1]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="spans"):
        interp.patch(model, other, "resid_pre", by, store=store, **QUIET)


def test_screening_names_spans(model: Any) -> None:
    found = interp.attribution.screen(model, ragged(), "z", 6, ("layer", "span", "head"), **QUIET)
    exact = interp.patch(model, ragged(), "z", ("layer", "span", "head"), **QUIET)["value"]
    measured = (found["group"] == 1) | (found["group"] == 2)
    assert int(measured.sum()) == 6
    np.testing.assert_allclose(found["value"].where(measured), exact.where(measured), atol=EXACT)


def test_templates_of_any_length_line_up_in_one_picture() -> None:
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=12, seed=0)
    assert len(task.lengths.unique()) > 1
    result = interp.patch(model, task, "resid_pre", ("layer", "span"), **QUIET)
    figure = interp.plot.positions(result, interval=0.95)
    heatmap = figure.data[0]
    assert isinstance(heatmap, go.Heatmap)
    assert list(figure.layout.xaxis.ticktext) == ["io", "s1", "s2", "s1+1", "end"]
    assert "L0.resid_pre@s2" in heatmap.hovertext[0][2]
    assert abs(result["value"].sel(layer=0, span="s2").mean()) > 1
    bars = interp.plot.bars(result, top=3)
    assert any("@s2" in str(label) for label in bars.layout.yaxis.ticktext)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "z", "by": ("layer", "pos", "span")}, "has 'pos' and 'span', which are the same axis"),
        ({"site": "pattern", "by": ("layer", "span")}, "site 'pattern' has no dim 'span'"),
        ({"cells": ["L0H1@verbs"]}, "no span 'verbs'; did you mean 'verb'.*The prompts have: verb, rest"),
        ({"cells": ["L0H1.pattern@verb"]}, "the positions of a pattern are numbers"),
    ],
)
def test_what_cannot_be_patched_is_a_sentence(model: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interp.patch(model, ragged(), **arguments, **QUIET)


def test_a_task_without_spans_says_how_to_give_them(model: Any) -> None:
    task = Task.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], answer=[5], wrong=[6])
    with pytest.raises(ValueError, match=r"the task has no named positions\. Give spans= when building it"):
        interp.patch(model, task, "z", ("layer", "span"), **QUIET)
    with pytest.raises(ValueError, match="no span 'verb': these prompts have no named positions"):
        interp.patch(model, task, cells=["L0H1@verb"], **QUIET)
