"""A feature is a site: what patching it is, by hooks, by identities, and beside its estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import two_sides

import interp
from interp import sae
from interp.patching import _units
from interp.patching._features import Bench
from interp.sae._activations import Gate, Pursuit
from interp.tasks import KL, LogitDiff

PLACES = ("L1.resid_pre", "L1.resid_mid", "L1.attn_out", "L1.mlp_out", "L2.resid_post", "L1.z", "L1.post")
QUIET: Any = {"progress": False}
F = 40


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=4, seed=0)


def dictionary(
    model: Any, place: str = "L1.resid_pre", seed: int = 0, n: int = F, **more: Any
) -> sae.Dictionary:
    d = model.cfg.d_mlp if place.endswith("post") and "resid" not in place else 64
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    tensors = {"W_enc": r(d, n) / 8, "b_enc": 0.1 * r(n), "W_dec": r(n, d) / 8, "b_dec": 0.1 * r(d)}
    return sae.Dictionary(**{**tensors, **more}, place=place)


def names(result: Any) -> list[str]:
    return [str(name) for name in result["feature"].values]


@pytest.mark.parametrize("place", PLACES)
def test_the_sweep_is_a_loop_of_hooks(place: str, model: Any, task: interp.Task) -> None:
    d = dictionary(model, place)
    fast = interp.patch(model, task, features=d, **QUIET)
    slow = interp.patch(model, task, features=d, engine="reference", **QUIET)
    assert (fast.attrs["engine"], slow.attrs["engine"]) == ("fast", "reference")
    np.testing.assert_allclose(fast["value"], slow["value"], atol=2e-5)
    assert abs(fast["value"]).max() > 0.01


@pytest.mark.parametrize("place", PLACES)
def test_all_features_and_the_error_are_the_site(place: str, model: Any, task: interp.Task) -> None:
    d = dictionary(model, place)
    every = names(interp.patch(model, task, features=d, **QUIET))
    both = interp.patch(model, task, features=d, cells=[every, every[:-1], every[-1:]], **QUIET)
    parts = [f"L1H{head}" for head in range(4)] if place == "L1.z" else [place]
    whole = interp.patch(model, task, cells=[parts], **QUIET)
    np.testing.assert_allclose(both["value"][:, 0], whole["value"][:, 0], atol=2e-5)
    assert abs(both["value"][:, 1] - both["value"][:, 0]).max() > 1e-3  # the error counts


def by_hand(model: Any, task: interp.Task, d: sae.Dictionary, feature: int, pos: int) -> np.ndarray:
    """Noise: one feature of the corrupt run in the clean run, through the plainest hook."""
    hook = "blocks.1.hook_resid_pre"
    x, other = (model.run_with_cache(tokens)[1][hook] for tokens in (task.clean, task.corrupt))
    step = (d.contributions(other) - d.contributions(x))[:, pos, feature, None] * d.W_dec[feature]

    def add(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        tensor = tensor.clone()
        tensor[:, pos] += step
        return tensor

    def measured(logits: torch.Tensor) -> torch.Tensor:
        row = torch.arange(len(task))
        last = logits[row, task.positions]
        return last[row, task.answers[:, 0]] - last[row, task.wrongs[:, 0]]

    with torch.no_grad():
        changed = model.run_with_hooks(task.clean, fwd_hooks=[(hook, add)])
        return (measured(model(task.clean)) - measured(changed)).numpy()


def test_one_feature_at_one_position_by_hand(model: Any, task: interp.Task) -> None:
    d = dictionary(model)
    swept = interp.patch(model, task, by=("pos", "feature"), features=d, direction="noise", **QUIET)
    best = abs(swept["value"]).mean("prompt")[:, :-1].argmax(...)
    pos, unit = int(best["pos"]), int(best["feature"])
    hand = by_hand(model, task, d, int(swept["index"][unit]), pos)
    np.testing.assert_allclose(swept["value"][:, pos, unit], hand, atol=2e-5)
    assert abs(hand).max() > 0.1
    named = interp.patch(
        model, task, features=d, cells=[f"{names(swept)[unit]}@{pos}"], direction="noise", **QUIET
    )
    np.testing.assert_allclose(named["value"][:, 0], hand, atol=2e-5)


KINDS: dict[str, dict[str, Any]] = {
    "jumprelu": {"activation": "jumprelu", "threshold": torch.full((F,), 0.3)},
    "topk": {"activation": "topk", "k": 6},
    "abstopk": {"activation": "abstopk", "k": 6},
    "groupmax": {"activation": "groupmax", "k": 8},
    "gated": {
        "activation": "gated",
        "gate": Gate(*torch.randn(3, F, generator=torch.Generator().manual_seed(5))),
    },
    "matching_pursuit": {"activation": "matching_pursuit", "pursuit": Pursuit(0.0, 5)},
    "layer_norm": {"norm": "layer_norm", "centre": True},
    "constant_norm": {"norm": "constant_norm_rescale"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_estimates_add_up_to_the_site_for_every_kind(kind: str, model: Any, task: interp.Task) -> None:
    d = dictionary(model, **KINDS[kind])
    each = interp.attribute(model, task, features=d, metric=[LogitDiff(), KL()], **QUIET)
    site = interp.attribute(model, task, cells=["L1.resid_pre"], metric=[LogitDiff(), KL()], **QUIET)
    total = each["value"].sum("feature").values
    np.testing.assert_allclose(total, site["value"][:, 0].values, atol=1e-5 * abs(total).max())
    assert abs(each["value"][:, :-1]).max() > 1e-3
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    sums = d.contributions(x) @ d.W_dec + d.constant + d.error(x)
    torch.testing.assert_close(sums, x, atol=1e-5, rtol=0)
    f = d.encode(x)
    g = f.roll(1, -1)  # a change of features is the same with and without the decoder's pass
    torch.testing.assert_close(d.difference(x, g - f), d.decode(g, x) - d.decode(f, x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("place", ["L1.resid_mid", "L1.z"])
def test_integrated_gradients_are_complete(place: str, model: Any, task: interp.Task) -> None:
    d = dictionary(model, place)
    ig = interp.attribute(model, task, features=d, method=interp.methods.IG(steps=16), **QUIET)
    every = names(interp.patch(model, task, features=d, **QUIET))
    exact = interp.patch(model, task, features=d, cells=[every], **QUIET)["value"][:, 0]
    np.testing.assert_allclose(ig["value"].sum("feature"), exact, atol=3e-2 * float(abs(exact).max()))
    assert ig.attrs["forwards"] == 18


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_ablations_are_of_features(ablation: str, model: Any, task: interp.Task) -> None:
    d = dictionary(model)
    fast = interp.patch(model, task, features=d, ablation=ablation, **QUIET)
    slow = interp.patch(model, task, features=d, ablation=ablation, engine="reference", **QUIET)
    np.testing.assert_allclose(fast["value"], slow["value"], atol=3e-5)
    every = names(fast)
    none = interp.patch(model, task, features=d, ablation=ablation, cells=[every], **QUIET)["value"][:, 0]
    if ablation == "mean":  # Σ mean φ d + mean ε + b_dec is the mean
        whole = interp.patch(model, task, cells=["L1.resid_pre"], ablation="mean", **QUIET)["value"][:, 0]
        np.testing.assert_allclose(none, whole, atol=3e-5)
        return
    hook = "blocks.1.hook_resid_pre"  # zero leaves b_dec, and not 0
    with torch.no_grad():
        logits = model.run_with_hooks(task.clean, fwd_hooks=[(hook, lambda t, hook: d.b_dec.expand_as(t))])
    row = torch.arange(len(task))
    last = logits[row, task.positions]
    raw = last[row, task.answers[:, 0]] - last[row, task.wrongs[:, 0]]
    np.testing.assert_allclose(fast["clean"] - none, raw, atol=3e-5)


def test_a_dictionary_that_explains_everything_is_the_dimensions(model: Any, task: interp.Task) -> None:
    eye = torch.eye(64)
    both = torch.cat((eye, -eye))
    d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
    pairs = [[f"L1.resid_pre.F{i}", f"L1.resid_pre.F{i + 64}"] for i in range(4)]
    found = interp.patch(model, task, features=d, cells=[*pairs, "L1.resid_pre.error"], **QUIET)["value"]
    line = [interp.subspaces.Subspace(eye[i], "L1.resid_pre") for i in range(4)]
    each = [interp.subspaces.interchange(model, task, one, pos="all", **QUIET) for one in line]
    for i, result in enumerate(each):
        np.testing.assert_allclose(
            found[:, i], result["value"].sel(part="subspace").values.squeeze(), atol=2e-5
        )
    assert abs(found[:, -1]).max() == 0  # a pass with nothing changed is the pass
    nothing = interp.sae.Dictionary(both.T, torch.zeros(128), 0 * both, torch.zeros(64), place="L1.resid_pre")
    assert interp.attribute(model, task, features=nothing, **QUIET).attrs["error_share"] == pytest.approx(1)


def test_order_of_features_does_not_matter(model: Any, task: interp.Task) -> None:
    d = dictionary(model)
    turned = d.take(torch.arange(F).flip(0))
    one, two = (interp.patch(model, task, features=each, **QUIET) for each in (d, turned))
    other = two.assign_coords(
        feature=[f"L1.resid_pre.F{F - 1 - int(i)}" if i >= 0 else "L1.resid_pre.error" for i in two["index"]]
    )
    np.testing.assert_allclose(one["value"], other["value"].sel(feature=one["feature"]), atol=1e-5)


NARROW = {"W_enc": torch.ones(32, F), "W_dec": torch.ones(F, 32), "b_dec": torch.zeros(32)}
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "width": (NARROW, {}, "reads 32 numbers, and resid_pre of tiny-ioi has 64"),
    "layer": ({"place": "L7.resid_pre"}, {}, "layers 0 to 2"),
    "model": ({"fingerprint": (1.0,) * 16, "model": "gpt2"}, {}, "made on gpt2, whose weights are not those"),
    "site": ({}, {"site": "z"}, "site= does not go with features="),
    "window": ({}, {"window": 2}, "window= does not go"),
    "by": ({}, {"by": "head"}, "features are patched by 'feature'"),
    "spans": ({}, {"by": ("layer", "feature")}, "features are patched by"),
    "cells": ({}, {"cells": ["L1.resid_pre.F40"]}, "features 0 to 39"),
    "elsewhere": ({}, {"cells": ["L2.resid_pre.F4"]}, "the dictionary at L1.resid_pre"),
    "no name": ({}, {"cells": ["L1.resid_pre"]}, r"names no feature. Forms: L1\.resid_pre\.F0"),
    "position": ({}, {"cells": ["L1.resid_pre.F4@99"]}, "position 99 is out of range"),
    "empty": ({}, {"cells": []}, "cells= is empty"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_sentences_before_a_pass(what: str, model: Any, task: interp.Task, monkeypatch: Any) -> None:
    changed, arguments, said = WRONG[what]
    d = dictionary(model).but(**changed)
    monkeypatch.setattr(type(model.blocks[0]), "forward", lambda *_, **__: pytest.fail("a pass was run"))
    with pytest.raises(ValueError, match=said):
        interp.patch(model, task, features=d, **arguments, **QUIET)


def test_no_place_and_other_methods(model: Any, task: interp.Task) -> None:
    with pytest.raises(ValueError, match=r"Give its place: dictionary\.at"):
        interp.patch(model, task, features=dictionary(model).but(place=None), **QUIET)
    with pytest.raises(ValueError, match=r"features is a list|features is \["):
        interp.patch(model, task, features=[3], **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'relp' has no form for features"):
        interp.attribute(model, task, features=dictionary(model), method="relp", **QUIET)


def test_an_edit_of_features_needs_a_dictionary_of_this_model(model: Any, task: interp.Task) -> None:
    """As patching does, before a pass: of its width, its weights, and its place."""
    cases = {
        "reads 32 numbers, and resid_pre": dictionary(model).but(**NARROW),
        "made on gpt2, whose weights are not those": dictionary(model).but(
            fingerprint=(1.0,) * 16, model="gpt2"
        ),
        "layer 7 is out of range": dictionary(model, "L7.resid_pre"),
    }
    for said, d in cases.items():
        made = interp.steering.edits.set_features(d, [3], 1.0)
        with two_sides.no_pass(model), pytest.raises(ValueError, match=said):
            interp.steering.generate(model, task.clean[:1], made, max_new_tokens=1)
    kept = interp.steering.edits.set_features(dictionary(model), [3], 1.0)
    interp.steering.generate(model, task.clean[:1], kept, max_new_tokens=1)


def test_the_bundled_dictionary_is_what_its_card_says() -> None:
    world, d = interp.load("tiny-world"), sae.load("tiny-world")
    task = interp.tasks.facts(world, n=8, seed=0)
    assert (str(d.place), d.k, d.n_features) == ("L2.resid_pre", 12, 256)
    assert sae.check(world, d, task) < 0.5
    with pytest.raises(ValueError, match=r"whose weights are not those of tiny-ioi|reads 128 numbers"):
        interp.patch(interp.load("tiny-ioi"), interp.tasks.ioi(interp.load("tiny-ioi"), n=2), features=d)


def test_a_store_goes_on_after_a_kill(model: Any, tmp_path: Any, monkeypatch: Any) -> None:
    d, task = dictionary(model), interp.tasks.ioi(model, n=20, seed=0)
    plain = interp.patch(model, task, features=d, **QUIET)
    path, runs = tmp_path / "run.zarr", []
    monkeypatch.setitem(_units._FLOPS, "cpu", 1e6)
    measure = Bench.measure

    def counted(self: Any, *args: Any) -> Any:
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return measure(self, *args)

    monkeypatch.setattr(Bench, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, task, features=d, store=path, **QUIET)
    again = interp.patch(model, task, features=d, store=path, memory=2**24, **QUIET)
    assert interp.stores.status(path).finished
    assert 4 <= len(runs) <= 8
    np.testing.assert_allclose(again["value"], plain["value"], atol=1e-5)
    assert names(again) == names(plain)
    assert list(again["index"].values) == list(plain["index"].values)
    before = len(runs)
    interp.patch(model, task, features=d, store=path, **QUIET)
    assert len(runs) == before  # nothing is left to do
    for other, changed in ((dictionary(model, seed=1), {}), (d, {"ablation": "zero"})):
        with pytest.raises(ValueError, match="holds another run"):
            interp.patch(model, task, features=other, store=path, direction="noise", **changed, **QUIET)


def test_a_dictionary_in_half_precision_has_a_store_too(model: Any, task: interp.Task, tmp_path: Any) -> None:
    halves, others = (
        sae.Dictionary(
            *(getattr(d, name).bfloat16() for name in ("W_enc", "b_enc", "W_dec", "b_dec")),
            place="L1.resid_pre",
        )
        for d in (dictionary(model), dictionary(model, seed=1))
    )
    kept = interp.patch(model, task, features=halves, store=tmp_path / "run.zarr", **QUIET)
    assert abs(kept["value"]).max() > 0.01
    with pytest.raises(ValueError, match="holds another run"):
        interp.patch(model, task, features=others, store=tmp_path / "run.zarr", **QUIET)


def test_a_dictionary_of_one_head_is_one_of_all_that_is_0_elsewhere(model: Any, task: interp.Task) -> None:
    """Patched, estimated, encoded and edited; its features and error are that head's z."""
    from interp import steering

    g = torch.Generator().manual_seed(3)
    W, d, head = torch.randn(16, F, generator=g), 16, 2
    small = sae.Dictionary(
        W, torch.randn(F, generator=g), W.T / 4, torch.randn(d, generator=g), place="L1H2.z"
    )
    pad = lambda t: torch.nn.functional.pad(t, (head * d, d))  # noqa: E731
    wide = sae.Dictionary(pad(W.T).T, small.b_enc, pad(small.W_dec), pad(small.b_dec), place="L1.z")
    for engine in ("auto", "reference"):
        one, all_ = (interp.patch(model, task, features=e, engine=engine, **QUIET) for e in (small, wide))
        np.testing.assert_allclose(one["value"][:, :-1], all_["value"][:, :-1], atol=1e-6)
    assert names(one)[0].startswith("L1H2.z.F")
    assert abs(one["value"][:, :-1]).max() > 1e-3
    every = interp.patch(model, task, features=small, cells=[names(one)], **QUIET)["value"][:, 0]
    exact = interp.patch(model, task, cells=["L1H2"], **QUIET)["value"][:, 0]
    np.testing.assert_allclose(every, exact, atol=2e-5)
    rough = interp.attribute(model, task, features=small, **QUIET)
    site = interp.attribute(model, task, cells=["L1H2"], **QUIET)["value"][:, 0]
    np.testing.assert_allclose(rough["value"].sum("feature"), site, atol=1e-5)
    rows = [sae.encode(model, each, task.clean) for each in (small, wide)]
    torch.testing.assert_close(*rows)
    with torch.no_grad():
        logits = []
        for each in (small, wide):
            with steering.steer(model, *steering.edits.set_features(each, [0, 1], 3.0)):
                logits.append(model(task.clean))
        assert float((logits[0] - model(task.clean)).abs().max()) > 1e-3
    torch.testing.assert_close(*logits)
    made = sae.methods.itda(model, "L1H2.z", task, threshold=0.3)
    assert interp.patch(model, task, features=made, **QUIET).sizes["feature"] > 1
    for verb in (sae.report, sae.check, sae.to_logits):
        with pytest.raises(ValueError, match=r"L1H2\.z is one head's z, which interp\.patch"):
            verb(model, *((task, small) if verb is sae.to_logits else (small, task)))
    with pytest.raises(ValueError, match="heads 0 to 3"):
        interp.patch(model, task, features=small.at("L1H9.z"), **QUIET)
