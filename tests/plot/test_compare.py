"""Results side by side: one scale, what differs as titles, like with like only."""

from __future__ import annotations

import numpy as np
import pytest

from interp import plot


def test_one_scale_and_a_panel_a_result(result) -> None:
    small = result()
    large = result(method="atp", model="other", sizes={"layer": 6, "head": 9}, seed=1)
    large["value"] = large["value"] * 3
    fig = plot.compare([small, large], zmax=None)
    first, second = fig.data
    np.testing.assert_allclose(first.z, small["value"].mean("prompt"), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(second.z, large["value"].mean("prompt"), rtol=1e-4, atol=1e-7)
    assert first.coloraxis == second.coloraxis == "coloraxis"
    assert fig.layout.coloraxis.cmax == pytest.approx(np.abs(second.z).max())
    assert [note.text for note in fig.layout.annotations] == [
        "<b>exact patching · toy on ioi</b>",
        "<b>AtP estimate · other on ioi</b>",
    ]
    subtitle = fig.layout.title.subtitle.text.replace("<br>", " ")
    for words in ("denoise: clean patched into corrupt", "20 prompts", "logits", "95 % intervals"):
        assert words in subtitle
    assert "exact" not in subtitle
    assert len(fig.layout.yaxis2.ticktext) == 6


def test_names_and_positions(result) -> None:
    data = result(by=("layer", "pos"), site="resid_pre")
    fig = plot.compare({"before": data, "<after>": data * 1.0}, theme="dark")
    assert [note.text for note in fig.layout.annotations] == ["<b>before</b>", "<b>&lt;after&gt;</b>"]
    assert fig.layout.xaxis.ticktext[2] == "·Mary"
    same = plot.compare([data, data])
    assert [note.text for note in same.layout.annotations] == ["<b>result 1</b>", "<b>result 2</b>"]


def test_other_units_are_refused_unless_normalised(result) -> None:
    pair = [result(), result(metrics=("kl",))]
    with pytest.raises(ValueError, match=r"different units, logits and nats.*normalise=True"):
        plot.compare(pair)
    fig = plot.compare(pair, normalise=True)
    assert "share" in fig.layout.title.subtitle.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: [r()], "two results or more, not 1"),
        (lambda r: [r(), r(by=("layer", "pos"))], "different dims: head, pos"),
        (lambda r: [r(), r(sites=("q", "z"))], r"several entries of 'site'.*result\.sel\(site="),
        (lambda r: [r(), r(by=("layer", "pos", "head"))], "beside layers"),
        (lambda r: [r(), r()[["clean"]]], "no variable 'value'"),
    ],
)
def test_only_like_with_like(result, make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot.compare(make(result))
