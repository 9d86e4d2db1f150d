"""Scores of heads as pictures: a panel a score, titles that say what is drawn."""

from __future__ import annotations

import pytest

import interp
from interp import heads


@pytest.fixture(scope="module")
def scores():
    return heads.scores(interp.load("tiny-ioi"), lengths=[5], n=4, progress=False)


def test_a_panel_a_score(scores):
    fig = interp.plot.heads(scores)
    assert [note.text for note in fig.layout.annotations] == [
        "<b>previous token</b>", "<b>duplicate token</b>", "<b>induction</b>", "<b>anti induction</b>",
    ]  # fmt: skip
    assert fig.layout.title.text == "<b>Score of each head</b>"
    assert "95 % intervals over 4 prompts" in fig.layout.title.subtitle.text
    assert "interval" in fig.data[0].hovertext[0][0]
    assert "none" not in fig.layout.title.subtitle.text


def test_shares_have_a_scale_from_0_to_1_and_their_differences_one_around_0(scores):
    axis = interp.plot.heads(scores).layout.coloraxis
    assert (axis.cmin, axis.cmax, axis.cmid) == (0, 1, None)
    moved = scores.assign(value=scores["value"] - 0.5)
    assert interp.plot.heads(moved).layout.coloraxis.cmid == 0


def test_a_scale_that_is_light_already_stays_when_light_is_asked_for(scores):
    steps = [colour for _, colour in interp.plot.heads(scores).layout.coloraxis.colorscale]
    assert [c for _, c in interp.plot.heads(scores, theme="light").layout.coloraxis.colorscale] == steps
    assert len(set(steps)) == len(steps)


def test_one_score_has_its_name_in_the_title(scores):
    fig = interp.plot.heads(scores.sel(score="previous_token"))
    assert fig.layout.title.text == "<b>Previous token score of each head</b>"
    assert "L1H0" in fig.data[0].hovertext[1][0]


def test_bars_name_head_and_score(scores):
    fig = interp.plot.bars(scores, top=3)
    assert "L1H1 previous token" in fig.layout.yaxis.ticktext
    assert len(fig.layout.yaxis.ticktext) == 3


def test_copying_and_roles():
    model = interp.load("tiny-ioi")
    assert interp.plot.heads(heads.copying(model)).layout.title.text == "<b>Copying score of each head</b>"
    task = interp.tasks.ioi(model, n=4, template=1)
    roles = heads.roles(model, task, io=2, s1=4, s2=-4, end=-1)
    assert len(interp.plot.heads(roles, interval=0.95).data) == 4


def test_backup_is_a_change_of_direct_effects():
    model = interp.load("tiny-ioi")
    found = heads.backup(model, interp.tasks.ioi(model, n=4), ["L2H2"], progress=False)
    fig = interp.plot.heads(found)
    assert fig.layout.title.text == "<b>Change of the direct effect of each head</b>"
    assert [note.text for note in fig.layout.annotations] == ["<b>frozen</b>", "<b>recomputed</b>"]
    assert "L0H1 frozen" in fig.data[0].hovertext[0][1]
    parts = interp.plot.heads(heads.parts(model, n=3))
    assert parts.layout.title.text == "<b>Share of attention scores of each head</b>"
    assert len(parts.layout.annotations) == 4
