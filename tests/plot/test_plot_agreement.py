"""Agreement plots: points at exact and estimated means, names at the largest errors, figures in words."""

from __future__ import annotations

import numpy as np
import pytest

from interp import plot, stats


def pair(result, **options):
    exact = result(**options)
    estimate = exact.copy(deep=True)
    estimate.attrs["method"] = "atp"
    rng = np.random.default_rng(1)
    estimate["value"] = estimate["value"] * 0.8 + rng.normal(0, 0.05, estimate["value"].shape[1:])
    return estimate, exact


def test_points_are_the_prompt_means(result) -> None:
    estimate, exact = pair(result)
    line, dots = plot.agreement(estimate, exact).data
    np.testing.assert_allclose(dots.x, exact["value"].mean("prompt").values.ravel(), rtol=1e-5)
    np.testing.assert_allclose(dots.y, estimate["value"].mean("prompt").values.ravel(), rtol=1e-5)
    assert list(line.x) == list(line.y)
    same = np.sign(dots.x) == np.sign(dots.y)
    assert [colour == "#2166ac" for colour in dots.marker.color] == same.tolist()


def test_the_worst_cells_are_named(result) -> None:
    estimate, exact = pair(result)
    estimate["value"][:, 1, 4] += 9.0
    estimate["value"][:, 3, 0] -= 5.0
    fig = plot.agreement(estimate, exact, worst=2)
    assert [note.text for note in fig.layout.annotations] == ["L1H4", "L3H0"]
    assert plot.agreement(estimate, exact, worst=0).layout.annotations == ()


def test_a_name_that_would_lie_on_another_is_left_to_the_hover(result) -> None:
    estimate, exact = pair(result)
    for data, value in ((estimate, 9.0), (exact, 2.0)):
        data["value"][:, 1, 4] = value
        data["value"][:, 3, 0] = value - 0.1
    fig = plot.agreement(estimate, exact, worst=2)
    assert [note.text for note in fig.layout.annotations] == ["L1H4"]
    assert any("L3H0" in text for text in fig.data[1].hovertext)


def test_cells_that_are_zero_in_both_are_left_out(result) -> None:
    estimate, exact = pair(result)
    for data in (estimate, exact):
        data["value"][:, 0] = 0.0
    dots = plot.agreement(estimate, exact).data[1]
    assert len(dots.x) == 3 * 6


def test_the_subtitle_has_the_figures(result) -> None:
    estimate, exact = pair(result, metrics=("logit_diff", "kl"))
    found = stats.agreement(estimate, exact).sel(metric="kl", cells="all")
    fig = plot.agreement(estimate, exact, metric="kl")
    words = fig.layout.title.subtitle.text.replace("<br>", " ")
    for name in ("pearson", "spearman", "slope"):
        assert f"{name} {float(found[name]):.3f}" in words
    assert fig.layout.title.text == "<b>AtP estimate against exact patching</b>"
    assert "nats" in fig.layout.xaxis.title.text


def test_effects_of_nearly_nothing_are_called_that(result) -> None:
    estimate, exact = pair(result)
    estimate["value"] *= 1e-6
    exact["value"] *= 1e-6
    with pytest.warns(
        stats.NearlyNoEffect, match="the largest exact effect on logit_diff is .* nearly nothing"
    ):
        stats.agreement(estimate, exact)
    assert "NEARLY 0" in plot.agreement(estimate, exact).layout.title.subtitle.text
    assert "NEARLY 0" not in plot.agreement(*pair(result)).layout.title.subtitle.text


def test_what_cannot_be_compared_is_refused(result) -> None:
    estimate, exact = pair(result)
    with pytest.raises(ValueError, match="cells"):
        plot.agreement(estimate.isel(head=slice(0, 3)), exact)
    with pytest.raises(ValueError, match="worst is -1"):
        plot.agreement(estimate, exact, worst=-1)
