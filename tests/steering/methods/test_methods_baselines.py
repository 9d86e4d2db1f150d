"""Prompting, rank-1 adapters and biases beside directions at one KL; and the band of coefficients to use."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
import xarray as xr

import interp
from interp import Task, steering
from interp.models import logits
from interp.probes.selectors import auroc
from interp.steering import methods
from interp.tasks import KL


@pytest.fixture(scope="module")
def net():
    return small.model()


@pytest.fixture(scope="module")
def task():
    ids = torch.randint(3, 30, (8, 6), generator=torch.Generator().manual_seed(8))
    return Task.from_tokens(clean=ids.tolist(), corrupt=ids.flip(1).tolist(), answer=[4] * 8, wrong=[9] * 8)


@pytest.fixture(scope="module")
def adapter(net, task):
    return methods.rank_one_adapter(net, task.clean, task.answers[:, :1], layer=1, steps=60, lr=0.1)


def test_the_adapter_is_its_formula_and_does_what_it_was_trained_for(net, task, adapter):
    assert adapter.losses[-1] < adapter.losses[0] - 1
    assert float(adapter.r.norm()) == pytest.approx(1.0)

    def by_hand(h, hook):
        return h + 0.5 * (h @ adapter.w + adapter.b - h @ adapter.r)[..., None] * adapter.r

    with torch.no_grad():
        base = logits(net, task.clean)
        with net.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", by_hand)]):
            wanted = logits(net, task.clean)
        with steering.steer(net, *adapter.steer(0.5)):
            torch.testing.assert_close(logits(net, task.clean), wanted)
        with steering.steer(net, *adapter.steer(0.0)):
            assert torch.equal(logits(net, task.clean), base)
        with steering.steer(net, *adapter.steer()):
            after = logits(net, task.clean)[:, -1].softmax(-1)[:, 4].mean()
    assert after > 3 * base[:, -1].softmax(-1)[:, 4].mean()
    h = steering.activations(net, task.clean, "L1.resid_pre")
    moved = h + (h @ adapter.w + adapter.b - h @ adapter.r)[:, None] * adapter.r
    torch.testing.assert_close(moved @ adapter.r, adapter.read(h))  # along r it is what it reads
    rest = torch.eye(len(adapter.r)).double() - torch.outer(adapter.r, adapter.r)
    torch.testing.assert_close(moved @ rest, h @ rest)


def test_a_tuned_bias_begins_at_nothing_and_can_be_baked(net, task):
    bias = methods.tuned_bias(net, task.clean, task.answers[:, :1], site="mlp_out", steps=40, lr=0.1)
    assert [str(where) for where in bias.places] == [f"MLP{n}" for n in range(3)]
    with torch.no_grad():
        base = logits(net, task.clean)
        with steering.steer(net, *steering.add(bias)):
            hooked = logits(net, task.clean)
        with steering.bake(net, steering.add(bias)):
            torch.testing.assert_close(logits(net, task.clean), hooked)
        assert torch.equal(logits(net, task.clean), base)
    assert hooked[:, -1].softmax(-1)[:, 4].mean() > 3 * base[:, -1].softmax(-1)[:, 4].mean()
    one = methods.tuned_bias(net, task.clean, task.answers[:, :1], site="mlp_out", steps=1, lr=0.1)
    assert all(float(v.abs().max()) <= 0.1 + 1e-9 for v in one.vectors.values())  # one step of Adam from 0


def test_a_prefix_stands_before_the_words_and_the_answer_moves_along(net, task):
    long = methods.prefixed(net, task, [11, 12, 13], after=2)
    assert long.clean[:, :2].equal(task.clean[:, :2])
    assert long.clean[:, 5:].equal(task.clean[:, 2:])
    assert (long.clean[:, 2:5] == torch.tensor([11, 12, 13])).all()
    assert long.last_position.equal(task.last_position + 3)
    with torch.no_grad():
        out = logits(net, long.clean)[:, -1]
    torch.testing.assert_close(methods.measure(net, long), out[:, 4] - out[:, 9])
    with pytest.raises(ValueError, match="0 tokens and after is 1"):
        methods.prefixed(net, task, [])


def test_spans_labels_and_several_reads_move_with_the_words():
    task = interp.Task.from_tokens(
        clean=[[1, 5, 6, 7, 8], [1, 6, 7, 8]], corrupt=[[1, 5, 6, 8, 8], [1, 6, 8, 8]],
        answer=[[3, 4], [5, -1]], wrong=[[9, 9], [9, -1]], positions=[[0, 4], [2, -1]],
        spans={"first": [0, None], "verb": [(2, 4), [1, 3]]}, labels=[list("abcde"), ["a", "b", "c", "d"]],
        seed=3,
    )  # fmt: skip
    long = methods.prefixed(interp.load("tiny-ioi"), task, [11, 12], after=1)
    assert long.clean.tolist() == [[1, 11, 12, 5, 6, 7, 8], [1, 11, 12, 6, 7, 8, 0]]
    assert long.corrupt.tolist() == [[1, 11, 12, 5, 6, 8, 8], [1, 11, 12, 6, 8, 8, 0]]
    assert long.lengths.tolist() == [7, 6]
    assert long.positions.tolist() == [[0, 6], [4, -1]]  # what stands before the prefix stays
    assert long.targets.equal(task.targets)
    for name, span in task.spans.items():
        assert long.clean[long.spans[name]].equal(task.clean[span])
    assert [row[:2] + row[3:4] for row in map(list, long.labels or ())] == [["a", long.labels[0][1], "b"]] * 2
    assert (long.metric, long.seed) == (task.metric, 3)
    same = methods.prefixed(interp.load("tiny-ioi"), task.without_corrupt(), [11], after=0)
    assert not same.has_corrupt


def test_all_methods_stand_at_one_kl_and_their_effects_are_those_of_runs(net, task, adapter):
    ids = task.clean
    d = steering.mean_difference(net, ids[:4], ids[4:], layer=1)
    table = methods.compare(
        net, task, {"mean": d, "adapter": adapter, "prompt": methods.prefixed(net, task, [11])}, 0.05,
        concept=(ids[:4], ids[4:]), progress=False,
    )  # fmt: skip
    assert table["run"].values.tolist() == ["mean", "mean, random", "mean, shuffled", "adapter", "prompt"]
    reached = table["kl"].values
    assert reached[:4] == pytest.approx(0.05, rel=0.011)
    strength = table["strength"].values
    runs = {"mean": steering.add(d, float(strength[0])), "adapter": adapter.steer(float(strength[3]))}
    for name, made in runs.items():
        effect = methods.measure(net, task, *made) - methods.measure(net, task)
        torch.testing.assert_close(torch.tensor(table["value"].sel(run=name).values), effect)
        kl = methods.measure(net, task, *made, metric=(KL(),)).mean()
        assert float(kl) == pytest.approx(float(table["kl"].sel(run=name)))
    assert np.isnan(strength[4])
    assert reached[4] > 0
    tokens = [
        d.project(steering.activations(net, each, "L1.resid_pre", "all")) for each in (ids[:4], ids[4:])
    ]
    tops = [each.reshape(4, 6).amax(1)[:, None] for each in tokens]
    assert float(table["auroc"].sel(run="mean")) == pytest.approx(float(auroc(*tops)[0]))
    assert np.isnan(table["auroc"].sel(run="prompt"))
    same = methods.compare(net, task, {"prompt": task}, 0.05, progress=False)
    assert abs(same["value"].values).max() == 0
    assert float(same["kl"][0]) == pytest.approx(0, abs=1e-12)
    nothing = methods.compare(net, task, {"none": lambda s: steering.add(d, 0.0)}, 0.05, progress=False)
    assert nothing.attrs["unreached"] == "none"
    assert np.isnan(nothing["value"].values).all()
    for given, match in (
        ({"a": 3}, "is a int"),
        ({"a": task[:2]}, "2 prompts, the task 8"),
        ({}, "0 methods"),
    ):
        with pytest.raises(ValueError, match=match):
            methods.compare(net, task, given, 0.05, progress=False)


def planted(effect, kl, n=40, noise=0.1):
    """A sweep whose mean effect and KL by coefficient are given."""
    rng = np.random.default_rng(0)
    steps = np.arange(-2.0, 5.0)
    shape = (n, 1, len(steps), 2)
    value = np.stack((np.array([effect(c) for c in steps]), -np.array([kl(c) for c in steps])), -1)
    value = value[None, None] + noise * rng.normal(size=shape)
    raw = value * [1, -1]
    control = noise * rng.normal(size=shape)
    dims = ("prompt", "layer", "coefficient", "metric")
    return xr.Dataset(
        {"value": (dims, value), "raw": (dims, raw), "random": (dims, control)},
        {"prompt": range(n), "layer": [3], "coefficient": steps, "metric": ["logit_diff", "kl"]},
        {"metric": "logit_diff, kl"},
    )


def test_the_band_is_where_the_effect_holds_and_the_text_is_whole():
    result = planted(effect=lambda c: c, kl=lambda c: 0.1 * c * c)
    band = steering.measures.band(result, "logit_diff", {"kl": 1.2})
    assert (float(band["first"][0]), float(band["last"][0])) == (1.0, 3.0)  # 4 has kl 1.6; the argmax is 4
    assert float(result["value"].sel(metric="logit_diff").mean("prompt").values.argmax()) == 6
    assert str(band["verdict"].values[0]).startswith("use 1 to 3")
    assert float(band["first_low"][0]) <= 1.0 <= float(band["first_high"][0])
    assert float(band["share"].sel(coefficient=-1)[0]) == 0
    higher = steering.measures.band(result, "logit_diff", {"kl": 1.2}, least=1.5)
    assert float(higher["first"][0]) == 2.0
    none = steering.measures.band(planted(lambda c: 0.0, lambda c: 0.0, noise=1.0), "logit_diff", {"kl": 1.0})
    assert np.isnan(none["first"][0])
    assert str(none["verdict"].values[0]).startswith("no coefficient is sure")
    edge = steering.measures.band(
        planted(lambda c: c, lambda c: 0.1 * c * c, noise=4.0), "logit_diff", {"kl": 0.95}
    )
    assert float(edge["last_high"][0]) != float(edge["last_low"][0])  # a limit amid the noise: unsure
    with pytest.raises(ValueError, match="limits has 'fluency'"):
        steering.measures.band(result, "logit_diff", {"fluency": 1.0})
    with pytest.raises(ValueError, match="a limit or more"):
        steering.measures.band(result, "logit_diff", {})


def test_a_band_does_not_go_through_0_and_a_control_that_is_not_there_forbids_nothing():
    """Both signs raise the effect, and no coefficient between them was run: -2 to 4 would hold 0 too."""
    result = planted(effect=abs, kl=lambda c: 0.0).drop_sel(coefficient=0.0)
    band = steering.measures.band(result, "logit_diff", {"kl": 1.0})
    assert (float(band["first"][0]), float(band["last"][0])) == (1.0, 4.0)
    bare = steering.measures.band(
        result.assign(shuffled=result["random"] * np.nan), "logit_diff", {"kl": 1.0}
    )
    assert (float(bare["first"][0]), float(bare["last"][0])) == (1.0, 4.0)
