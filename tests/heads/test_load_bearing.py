"""From scores to causes: top heads, matched random sets, overlap of two results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
import xarray as xr

import interp
from interp import heads

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def ioi():
    model = interp.load("tiny-ioi")
    return model, interp.tasks.ioi(model, n=6)


@pytest.fixture(scope="module")
def effects(ioi):
    return interp.patch(*ioi, "z", **QUIET)


def test_the_planted_head_bears_the_load_and_an_idle_one_does_not():
    sketch = toys.two_skills()
    model, task = toys.model(sketch), toys.task(sketch, toys.WORDS)
    found = heads.load_bearing(model, task, ["L0H0"], **QUIET)
    # The heads lose the whole gap of 20; of the 23 others none loses anything.
    assert (float(found["difference"]), float(found["difference_low"])) == (
        pytest.approx(20),
        pytest.approx(20),
    )
    assert int(found["rank"]) == 1
    assert float(found["p"]) == pytest.approx(1 / 24)
    idle = heads.load_bearing(model, task, ["L0H7"], **QUIET)
    assert float(idle["difference"]) == pytest.approx(-20 / 23)
    assert float(idle["p"]) == 1


def test_induction_heads_bear_the_in_context_loss():
    model = interp.load("induction")
    scores = heads.scores(model, lengths=[6, 9], prepend_bos=False, n=4, **QUIET)
    found = heads.load_bearing(model, None, scores, score="induction", n=1, **QUIET)
    assert found.attrs["heads"] == "L1H0"
    assert found.attrs["metric"] == "in_context_loss"
    assert float(found["difference_low"]) > 1
    assert int(found["rank"]) == 1
    assert float(found["clean"].max()) < -2  # nats that the first copy saves


def test_fifty_sets_of_the_same_layers(ioi):
    model, task = ioi
    found = heads.load_bearing(model, task, ["L0H0", "L1H1", "L2H2"], **QUIET)
    assert found.sizes["set"] == 51
    members = [name.split(" + ") for name in found["members"].values]
    assert len(set(map(frozenset, members))) == 51
    assert all(sorted(name[:2] for name in each) == ["L0", "L1", "L2"] for each in members)
    whole = interp.patch(model, task, cells=[members[7]], direction="noise", **QUIET)["value"][:, 0]
    np.testing.assert_allclose(found["value"][:, 7], whole, atol=1e-4)
    excess = found["value"][:, 0] - found["value"][:, 1:].mean("set")
    assert float(found["difference"]) == pytest.approx(float(excess.mean()), abs=1e-5)
    assert float(found["difference_low"]) <= float(found["difference"]) <= float(found["difference_high"])
    assert float(abs(found["value"]).max()) > 0.1


def test_several_metrics_have_an_interval_each(ioi):
    model, task = ioi
    found = heads.load_bearing(model, task, ["L0H0"], metric=["logit_diff", "kl"], draws=2, **QUIET)
    assert found["difference_low"].dims == ("metric",)
    assert found["rank"].dims == ("metric",)


def test_top_names_the_highest_means(effects):
    mean = effects["value"].mean("prompt").values
    layer, head = np.unravel_index(mean.argmax(), mean.shape)
    assert heads.top(effects, 1) == [f"L{layer}H{head}"]
    assert len(heads.top(effects, 99)) == mean.size


def test_repeats_are_two_copies_with_the_in_context_loss():
    model = interp.load("tiny-ioi")
    task = heads.repeats(model, n=3, length=7)
    start = task.clean.shape[1] - 14
    assert torch.equal(task.clean[:, start : start + 7], task.clean[:, start + 7 :])
    assert start in (0, 1)
    assert not torch.equal(task.clean, task.corrupt)


def _map(values):
    return xr.Dataset(
        {"value": (("layer", "head"), values)}, {"layer": range(len(values)), "head": range(values.shape[1])}
    )


def test_overlap_of_equal_maps_is_whole_and_layers_alone_are_no_reuse():
    generator = np.random.default_rng(0)
    same = _map(generator.normal(size=(4, 12)))
    found = heads.overlap(same, same, n=8, draws=300)
    assert (int(found["both"]), float(found["jaccard"])) == (8, 1)
    assert float(found["p"]) < 1e-4
    assert float(found["p_in_layers"]) < 0.01
    assert float(found["spearman"]) == pytest.approx(1)
    late = [_map(generator.normal(size=(4, 12)) + np.array([0, 0, 0, 9])[:, None]) for _ in range(2)]
    found = heads.overlap(*late, n=10, draws=300)  # both have their top heads in the last layer, by chance
    assert float(found["p"]) < 0.001 < 0.05 < float(found["p_in_layers"])
    assert float(found["expected"]) == pytest.approx(100 / 48)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t, e: heads.load_bearing(m, t, [], **QUIET), "is no set of places"),
        (lambda m, t, e: heads.load_bearing(m, t, ["L0H0"], draws=0, **QUIET), "draws is 0"),
        (lambda m, t, e: heads.load_bearing(m, t, [f"L0H{h}" for h in range(4)], **QUIET), "no other set"),
        (lambda m, t, e: heads.top(e, 2, score="induction"), "no scores"),
        (lambda m, t, e: heads.top(e, 0), "at least one head"),
        (
            lambda m, t, e: heads.top(interp.patch(m, t, "mlp_out", "layer", **QUIET)),
            "dims prompt, layer|dims layer",
        ),
        (lambda m, t, e: heads.overlap(e, e, n=12), "n is 12"),
        (lambda m, t, e: heads.overlap(e, e.isel(head=slice(2))), "one shape"),
        (lambda m, t, e: heads.repeats(m, length=1000), "does not fit"),
    ],
)
def test_bad_input_is_one_sentence(ioi, effects, call, message):
    with pytest.raises(ValueError, match=message):
        call(*ioi, effects)
