"""The picture of a lens: its cells, colours, hovers and curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import interp
from interp import plot


@pytest.fixture(scope="module")
def found() -> Any:
    model = interp.load("tiny-ioi")
    return interp.lens.logit(model, interp.tasks.ioi(model, n=4, seed=0))


def test_a_cell_holds_the_likeliest_token_and_its_probability(found: Any) -> None:
    heat = plot.lens(found, prompt=1).data[0]
    n = int((found["top_id"].values[1, 0, :, 0] >= 0).sum())
    assert heat.z.shape == (4, n)
    np.testing.assert_allclose(heat.z, np.exp(found["top_value"].values[1, :, :n, 0]))
    assert heat.text[-1][-1] == str(found["top_token"].values[1, -1, n - 1, 0]).strip()
    hover = heat.hovertext[0][-1]
    assert f"rank {found['rank'].values[1, 0, n - 1, 0]:,.0f}" in hover
    assert f"KL to the end {found['kl'].values[1, 0, n - 1]:.3g} nats" in hover
    assert hover.count("<br>") == 7  # a heading, five tokens, the target, its numbers


@pytest.mark.parametrize("show", ["kl", "entropy"])
def test_other_colours_are_dark_near_the_end(found: Any, show: str) -> None:
    heat = plot.lens(found, show).data[0]
    assert heat.reversescale
    np.testing.assert_allclose(heat.z[:, 0], found[show].values[0, :, 0])


def test_ranks_are_drawn_on_a_log_axis(found: Any) -> None:
    fig = plot.lens(found, at=-1)
    n = int((found["top_id"].values[0, 0, :, 0] >= 0).sum())
    np.testing.assert_allclose(fig.data[0].y, found["rank"].values[0, :, n - 1, 0] + 1)
    np.testing.assert_allclose(fig.data[1].y, found["kl"].values[0, :, n - 1])
    assert fig.layout.yaxis.type == "log"


def test_what_it_cannot_draw_is_said(found: Any) -> None:
    for call, said in (
        (lambda: plot.lens(found.drop_vars("rank")), "lacks rank"),
        (lambda: plot.lens(found, "kll"), "did you mean 'kl'"),
        (lambda: plot.lens(found, prompt=4), "prompt is 4; the result has 4"),
        (lambda: plot.lens(found, at=99), "at is 99"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
