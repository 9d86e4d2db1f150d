"""`audit`: a planted edit is found and nothing else is; identical models are; two shapes are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp import plot, steering
from interp.models import anatomy


@pytest.fixture(scope="module")
def before():
    return interp.load("tiny-ioi")


@pytest.fixture
def after():
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def planted():
    v = torch.randn(64, generator=torch.Generator().manual_seed(4))
    return steering.Direction.from_tensor(v, "L1.resid_post")


def test_a_planted_rank_one_edit_is_found(before, after, planted) -> None:
    key = torch.randn(after.blocks[1].mlp.W_out.shape[0], generator=torch.Generator().manual_seed(5))
    change = 0.01 * torch.outer(key, planted.vector)
    with torch.no_grad():
        after.blocks[1].mlp.W_out.add_(change)
    found = steering.audit(before, after, planted)
    row = found.sel(matrix="L1.W_out")
    assert float(row["norm"]) == pytest.approx(float(change.norm()), rel=1e-4)
    assert float(row["relative"]) == pytest.approx(
        float(change.norm() / before.blocks[1].mlp.W_out.detach().norm()), rel=1e-4
    )
    assert float(row["rank"]) == pytest.approx(1, abs=1e-4)
    assert float(row["share"]) > 0.9999
    d = steering.edited_direction(found, "L1.W_out")
    assert str(d.place) == "MLP1"
    assert abs(torch.nn.functional.cosine_similarity(d.vector, planted.vector.double(), dim=0)) > 0.99
    others = found.where(found["matrix"] != "L1.W_out", drop=True)
    assert float(abs(others["norm"]).max()) == 0
    assert found.attrs["conclusion"].startswith(
        f"1 of {found.sizes['matrix']} weights differ, most of all L1.W_out"
    )


def test_the_share_of_another_direction_is_chance(before, after, planted) -> None:
    """An edit of many directions; a random direction holds 1 / d_model of it, its own first one more."""
    with torch.no_grad():
        after.blocks[0].attn.W_O.add_(
            0.01 * torch.randn(after.blocks[0].attn.W_O.shape, generator=torch.Generator().manual_seed(6))
        )
    found = steering.audit(before, after, planted)
    row = found.sel(matrix="L0.W_O")
    assert 0.2 * found.attrs["chance"] < float(row["share"]) < 5 * found.attrs["chance"]
    assert 20 < float(row["rank"]) < 64
    D = (after.blocks[0].attn.W_O - before.blocks[0].attn.W_O).detach().double().flatten(0, 1)
    _, S, V = torch.linalg.svd(D)
    np.testing.assert_allclose(row["singular"], S[:3], rtol=1e-6)
    cosines = np.abs((row["vector"].values * V[:3].numpy()).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert float(row["rank"]) == pytest.approx(float(S.square().sum() ** 2 / S.pow(4).sum()))


def test_what_bake_did_is_read_back(before, after, planted) -> None:
    where = [each for each in steering.writers(anatomy(after)) if each.site != "resid_pre"]
    with steering.bake(after, steering.ablate(planted.spread(where))):
        found = steering.audit(before, after, planted)
    edited = found["matrix"].values[found["norm"].values > 0]
    assert {name.split(".")[1] for name in edited} == {"W_O", "b_O", "W_out", "b_out"}
    shown = found.sel(matrix=[name for name in edited if ".W_" in name])
    assert float(shown["share"].min()) > 0.999
    assert float(shown["rank"].max()) < 1.01
    assert "along one direction of the stream" in found.attrs["conclusion"]
    assert float(found.sel(matrix=edited[0])["norm"]) > 0.01
    assert len(plot.edits(found).data) == 1
    assert "L1.W_out" in "".join(plot.edits(found).data[0].hovertext.flatten())


def test_a_bias_that_was_0_has_no_share(before, after) -> None:
    base, edited = interp.load("tiny-ioi"), interp.load("tiny-ioi")
    with torch.no_grad():
        base.blocks[0].mlp.b_out.zero_()
        edited.blocks[0].mlp.b_out.fill_(1.0)
    assert "L0.b_out (was 0)" in steering.audit(base, edited).attrs["conclusion"]


def test_a_direction_of_a_third_model_is_refused(before, after, planted) -> None:
    from dataclasses import replace

    task = interp.tasks.ioi(before, n=4, seed=0)
    own = steering.mean_difference(before, task.clean[:2], task.clean[2:], layer=1)
    assert "share" in steering.audit(before, after, own)
    assert "share" in steering.audit(after, before, own)
    with pytest.raises(ValueError, match="found on model 'other', this is 'tiny-ioi'"):
        steering.audit(before, after, replace(own, model="other"))
    with pytest.raises(ValueError, match="another model that is called"):
        steering.audit(before, after, replace(own, weights=tuple(-x for x in own.weights)))
    with pytest.raises(ValueError, match="give one vector of the stream"):
        steering.audit(before, after, steering.Direction.from_tensor(torch.ones(16), "L1H0"))


def test_identical_models_are_said_to_be(before, after, planted) -> None:
    found = steering.audit(before, after, planted)
    assert float(found["norm"].max()) == 0
    assert float(found["rank"].max()) == 0
    assert found.attrs["conclusion"] == "The two models have the same weights: nothing was edited."
    plot.edits(found)
    with pytest.raises(ValueError, match="is the same in both models"):
        steering.edited_direction(found, "L1.W_out")


def test_a_trained_pair_is_no_edit(before, after) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in after.parameters():
            value.add_(0.01 * torch.randn(value.shape, generator=generator))
    assert "rather than edited" in steering.audit(before, after).attrs["conclusion"]


def test_bad_input_is_a_sentence(before, planted) -> None:
    with pytest.raises(ValueError, match=r"Give two models of one shape"):
        steering.audit(before, interp.load("tiny-world"))
    with pytest.raises(ValueError, match="components is 0"):
        steering.audit(before, before, components=0)
    narrow = steering.Direction.from_tensor(torch.ones(7), "L1.resid_post")
    with pytest.raises(ValueError, match=r"is \[7\]; give one vector of the stream, \[64\]"):
        steering.audit(before, before, narrow)
    found = steering.audit(before, before)
    for name, said in (("L9.W_out", "no matrix 'L9.W_out'"), ("L0.b_Q", "same in both")):
        with pytest.raises(ValueError, match=said):
            steering.edited_direction(found, name)
    with pytest.raises(ValueError, match=r"not the result of steering\.audit"):
        plot.edits(found.drop_vars("rank"))
