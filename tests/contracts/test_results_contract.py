"""The contract of results: one test for every verb that returns a Dataset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import circuits, heads, probes, results, sae, steering
from interp.tasks import KL, LogitDiff

QUIET = {"progress": False}
TWO = {"metric": [LogitDiff(), KL()], **QUIET}
BASELINES = {"circuits": ("clean", "empty"), "steering": ("clean",)}


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> interp.Task:
    return interp.tasks.ioi(model, n=6, seed=0)


@pytest.fixture(scope="module")
def circuit(model: Any, task: interp.Task) -> circuits.Circuit:
    return circuits.top(circuits.score_edges(model, task, **QUIET), 40)


@pytest.fixture(scope="module")
def direction(model: Any, task: interp.Task) -> steering.Direction:
    return steering.mean_difference(model, task.clean[:3], task.clean[3:], layer=1)


def _sweep(model: Any, task: interp.Task, circuit: Any, direction: Any, **options: Any) -> xr.Dataset:
    return steering.sweep(model, direction, task, [0.0, 1.0], **options)


Verb = Callable[..., xr.Dataset]
PATCHING: dict[str, Verb] = {
    "patch": lambda m, t, c, d, **o: interp.patch(m, t, "z", **o),
    "patch by position": lambda m, t, c, d, **o: interp.patch(m, t[:2], "resid_pre", **o),
    "patch zero": lambda m, t, c, d, **o: interp.patch(m, t, "z", ablation="zero", **o),
    "path_patch": lambda m, t, c, d, **o: interp.path_patch(m, t, "heads", ["L2H0.q", "logits"], **o),
    "attribute": lambda m, t, c, d, **o: interp.attribute(m, t, "z", direction="denoise", **o),
    "screen": lambda m, t, c, d, **o: interp.attribution.screen(m, t, "z", 4, direction="denoise", **o),
    "score_edges": lambda m, t, c, d, **o: circuits.score_edges(m, t, direction="denoise", **o),
    "score_nodes": lambda m, t, c, d, **o: circuits.score_nodes(m, t, direction="denoise", **o),
    "exact": lambda m, t, c, d, **o: circuits.exact(m, t, **o),
    "load_bearing": lambda m, t, c, d, **o: heads.load_bearing(m, t, ["L0H0"], draws=2, **o),
}
CIRCUITS: dict[str, Verb] = {
    "evaluate": lambda m, t, c, d, **o: circuits.evaluate(m, t, c, **o),
    "curve": lambda m, t, c, d, **o: circuits.curve(m, t, circuits.score_edges(m, t, **QUIET), **o),
    "random_baseline": lambda m, t, c, d, **o: circuits.random_baseline(m, t, [10, 30], draws=3, **o),
    "run": lambda m, t, c, d, **o: circuits.run(m, t, [c], **o),
    "neuron_curve": lambda m, t, c, d, **o: circuits.neuron_curve(
        m, t, interp.attribute(m, t, "post", ("layer", "neuron"), direction="noise", **QUIET), **o
    ),
}
STEERING: dict[str, Verb] = {
    "sweep": _sweep,
    "attention_knockout": lambda m, t, c, d, **o: steering.methods.attention_knockout(
        m, t, [("end", "s2")], **o
    ),
    "compare": lambda m, t, c, d, **o: steering.methods.compare(
        m, t, {"d": d, "asked": steering.methods.prefixed(m, t, " Mary", 1)}, 0.1, **o
    ),
    "rank_skills": lambda m, t, c, d, **o: steering.methods.rank_skills(
        m, steering.methods.native_skills(m, t, 2, layer=1), t, **o
    ),
    "under_shift": lambda m, t, c, d, **o: steering.methods.under_shift(m, d, {"as it is": t}, **o),
    "vector_paths": lambda m, t, c, d, **o: steering.methods.vector_paths(m, d, t, **o),
}
EVERY = {**PATCHING, **CIRCUITS, **STEERING}


@pytest.fixture(scope="module")
def made(model: Any, task: Any, circuit: Any, direction: Any) -> Callable[..., xr.Dataset]:
    kept: dict[tuple[str, bool], xr.Dataset] = {}

    def make(name: str, several: bool = False) -> xr.Dataset:
        if (name, several) not in kept:
            kept[name, several] = EVERY[name](model, task, circuit, direction, **(TWO if several else QUIET))
        return kept[name, several]

    return make


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_contract(name: str, made: Callable[..., xr.Dataset], task: interp.Task) -> None:
    result = made(name)
    results.check(result)
    assert result["value"].dims[0] == "prompt"
    assert "metric" not in result.dims or name == "sweep"
    family = "circuits" if name in CIRCUITS else "steering" if name in STEERING else "patching"
    for baseline in BASELINES.get(family, ("clean", "corrupt")):
        assert result[baseline].dims[0] == "prompt"
    assert result.attrs["task"] == task.name
    assert result.attrs["task_fingerprint"] in (task.fingerprint(), task[:2].fingerprint())
    assert result.attrs["n_prompts"] == result.sizes["prompt"]
    assert result.attrs["model"] == "tiny-ioi"
    assert list(result["template"].dims) == ["prompt"]
    assert float(np.nanmax(np.abs(result["value"].values))) > 1e-3


@pytest.mark.parametrize("name", sorted(EVERY))
def test_several_metrics_are_each_alone(name: str, made: Callable[..., xr.Dataset]) -> None:
    both, alone = made(name, True), made(name)
    first = alone["value"].sel(metric="logit_diff") if "metric" in alone.dims else alone["value"]
    assert list(both["metric"].values) == ["logit_diff", "kl"]
    assert both.attrs["metric"] == "logit_diff, kl"
    assert both.attrs["unit"] == "logits, nats"
    assert both.attrs["better"] == "higher, lower"
    shown = both["value"].sel(metric="logit_diff").transpose(*first.dims)
    np.testing.assert_allclose(shown.values, first.values, atol=1e-4)


@pytest.mark.parametrize("name", sorted(CIRCUITS))
def test_value_of_a_circuit_is_its_effect(name: str, made: Callable[..., xr.Dataset]) -> None:
    """More of what the model does than nothing at all, in the unit of the metric, whatever is better."""
    result = made(name, True)
    for metric, sign in (("logit_diff", 1), ("kl", -1)):
        one = result.sel(metric=metric)
        expected = sign * (one["raw"] - one["empty"])
        np.testing.assert_allclose(
            one["value"].values, expected.transpose(*one["value"].dims).values, atol=1e-6
        )


def test_value_of_steering_is_its_effect(made: Callable[..., xr.Dataset]) -> None:
    result = made("sweep", True)
    for metric, sign in (("logit_diff", 1), ("kl", -1)):
        one = result.sel(metric=metric)
        expected = sign * (one["raw"] - one["clean"])
        np.testing.assert_allclose(
            one["value"].values, expected.transpose(*one["value"].dims).values, atol=1e-6
        )
        assert abs(one["value"].sel(coefficient=0.0)).max() < 1e-4


@pytest.mark.parametrize("name", ["evaluate", "curve", "random_baseline"])
def test_an_interval_has_a_level_and_a_seed(name: str, model: Any, task: Any, circuit: Any) -> None:
    options = {"seed": 7, **QUIET} | ({} if name == "random_baseline" else {"level": 0.5})
    result = EVERY[name](model, task, circuit, None, **options)
    assert result.attrs["seed"] == 7
    assert name == "random_baseline" or result.attrs["level"] == 0.5


def test_two_results_of_one_task_subtract(made: Callable[..., xr.Dataset]) -> None:
    gap = made("patch")["value"] - made("attribute")["value"]
    assert gap.dims == made("patch")["value"].dims
    assert float(abs(gap).max()) > 0
    edges = made("score_edges")["value"] - made("exact")["value"]
    assert edges.shape == made("exact")["value"].shape


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_result_is_kept_by_netcdf(name: str, made: Callable[..., xr.Dataset], tmp_path: Any) -> None:
    result = made(name, True)
    result.to_netcdf(tmp_path / "result.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "result.nc", engine="h5netcdf") as again:
        xr.testing.assert_equal(again.load(), result)
        assert {k: str(v) for k, v in again.attrs.items()} == {k: str(v) for k, v in result.attrs.items()}


def more(model: Any) -> Any:
    return interp.tasks.ioi(model, n=16, seed=3).clean


def monitor(model: Any, task: interp.Task) -> probes.Probes:
    return probes.fit(model, more(model)[:8], more(model)[8:], layer=1, agg="mean", draws=1, **QUIET)[1]


def axes() -> sae.Dictionary:
    both = torch.cat((torch.eye(64), -torch.eye(64)))
    return sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")


def feature_circuit(model: Any, task: interp.Task) -> sae.FeatureGraph:
    return sae.circuit(model, task, [axes()], nodes=5, **QUIET)


def last(model: Any) -> probes.Probes:
    return probes.fit(model, more(model)[:8], more(model)[8:], layer=1, draws=1, **QUIET)[1]


def concepts(model: Any) -> dict[str, steering.Direction]:
    return steering.methods.concept_vectors(model, ["Mary", "Tom"], ["Anna"], template="{} had a", layer=1)


def named_value(result: xr.Dataset, name: str) -> xr.Dataset:
    """A result whose numbers go by another name, so that the test below can read them."""
    return result.assign(value=result[name])


def halved() -> Any:
    model = interp.load("tiny-ioi")
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(0.5)
    return model


def names_span(model: Any) -> interp.subspaces.Subspace:
    return interp.subspaces.Subspace(interp.subspaces.orthonormal(model.W_E[:2].T), "L1.resid_pre")


WITHOUT_A_MODEL: dict[str, Verb] = {
    "overlap": lambda m, t, c, d, **o: interp.subspaces.overlap(m.W_E[:64], m.W_E[64:128], draws=2),
    "reliability": lambda m, t, c, d, **o: probes.reliability([0.1, 0.4, 0.8, 0.9], [0, 1, 1, 1], bins=2),
    "operating": lambda m, t, c, d, **o: probes.thresholds.operating(0.5, [0.9, 0.8, 0.1], [0.2, 0.6]),
}
OTHERS: dict[str, Verb] = {
    **WITHOUT_A_MODEL,
    "feature to_logits": lambda m, t, c, d, **o: sae.to_logits(m, t, axes()),
    "feature to_feature": lambda m, t, c, d, **o: sae.to_feature(m, t, axes(), axes().at("L2.resid_pre"), 3),
    "through_attention": lambda m, t, c, d, **o: sae.through_attention(
        m, t[:2], axes().at("L1.attn_out"), [3, 70]
    ),
    "interchange": lambda m, t, c, d, **o: interp.subspaces.interchange(m, t, names_span(m), "end", **o),
    "illusion": lambda m, t, c, d, **o: interp.subspaces.illusion(m, t, names_span(m), "end", **o),
    "attention": lambda m, t, c, d, **o: heads.attention(m, "When Mary and John went"),
    "backup": lambda m, t, c, d, **o: heads.backup(m, t, ["L1H1"], **o),
    "ensemble": lambda m, t, c, d, **o: circuits.ensemble([circuits.score_edges(m, t, **o), c]),
    "stability": lambda m, t, c, d, **o: circuits.stability(circuits.score_edges(m, t, **o), 9, draws=100),
    "copying": lambda m, t, c, d, **o: heads.copying(m),
    "composition": lambda m, t, c, d, **o: heads.composition(m),
    "lens": lambda m, t, c, d, **o: interp.lens.logit(m, t),
    "lens of heads": lambda m, t, c, d, **o: interp.lens.logit(m, t, site="z", pos="last"),
    "backward": lambda m, t, c, d, **o: interp.lens.backward(
        m, t, steering.mean_difference(m, t[:3], t[3:], layer=1)
    ),
    "stream": lambda m, t, c, d, **o: probes.stream(m, t, monitor(m, t)),
    "amplification": lambda m, t, c, d, **o: interp.subspaces.amplification(
        m,
        {"ioi": t},
        names_span(m),
        draws=1,
        **o,
    ),
    "cascade": lambda m, t, c, d, **o: probes.cascade(
        m,
        t.clean,
        t.corrupt,
        last(m),
        probes.Question(" Mary", " John"),
        rate=0.2,
        calibrate=(more(m)[:8], more(m)[8:]),
    ),
    "collective": lambda m, t, c, d, **o: probes.collective(
        m,
        [more(m)[k : k + 2].tolist() for k in range(0, 8, 2)],
        [more(m)[k : k + 2].tolist() for k in range(8, 16, 2)],
        monitor(m, t),
        draws=1,
    ),
    "attack_scaling": lambda m, t, c, d, **o: named_value(
        steering.methods.attack_scaling(m, t.clean[:1], [1], [1], steps=2, n_targets=2, **o), "norm"
    ),
    "audit": lambda m, t, c, d, **o: named_value(steering.audit(m, halved()), "norm"),
    "decompose": lambda m, t, c, d, **o: named_value(
        steering.mean_difference(m, t[:3], t[3:], layer=1).decompose(torch.eye(64), 2, n_draws=2), "explained"
    ),
    "control_effect": lambda m, t, c, d, **o: steering.methods.control_effect(
        m, more(m)[:8], more(m)[8:], steering.mean_difference(m, more(m)[:8], more(m)[8:], layer=1)
    ),
    "example_effects": lambda m, t, c, d, **o: steering.methods.example_effects(m, t, more(m)[:4]),
    "introspection": lambda m, t, c, d, **o: steering.methods.introspection(
        m, t.clean[:2], concepts(m), probes.Question(" Mary", " John"), strengths=[8.0], **o
    ),
    "pair probe": lambda m, t, c, d, **o: probes.pairs(
        m, interp.tasks.ioi(m, n=16), ("io", "end"), ("s1", "end"), layer=1, ranks=[2], draws=1, **o
    ),
    "manifold_paths": lambda m, t, c, d, **o: named_value(
        steering.methods.manifold_paths(
            m,
            steering.methods.manifold(m, {x: t[i : i + 2] for i, x in enumerate("abc")}, layer=1),
            t,
            [5, 6, 7],
            0,
            2,
            n=2,
        ),
        "curve",
    ),
    "invert_outputs": lambda m, t, c, d, **o: steering.methods.invert_outputs(
        m,
        steering.methods.manifold(m, {x: t[i : i + 2] for i, x in enumerate("abc")}, layer=1),
        steering.methods.output_curve(m, {x: t[i : i + 2] for i, x in enumerate("abc")}, [5, 6, 7]),
        t,
        [5, 6, 7],
        0,
        2,
        n=2,
        steps=1,
    ),
    "pattern_heads": lambda m, t, c, d, **o: steering.methods.pattern_heads(m, t),
    "resistance": lambda m, t, c, d, **o: named_value(
        steering.methods.resistance(
            m,
            t,
            steering.add(steering.mean_difference(m, t[:3], t[3:], layer=1)),
            lambda new: torch.zeros(len(new), dtype=torch.long),
            max_new_tokens=1,
            **o,
        ),
        "rate",
    ),
    "sink_effect": lambda m, t, c, d, **o: steering.methods.sink_effect(m, t, 0),
    "report": lambda m, t, c, d, **o: steering.methods.report(
        m,
        [f"{name} had a book" for name in ("Mary", "Tom", "Anna", "Paul")],
        steering.mean_difference(m, t.clean[:3], t.clean[3:], layer=1),
        (" Mary", " John"),
        mark=" and",
        end=" and ",
        shots=[2],
        queries=4,
    ),
    "table": lambda m, t, c, d, **o: probes.table(m, more(m)[:8], more(m)[8:], layer=1, ks=[2], draws=1, **o),
    "watch": lambda m, t, c, d, **o: probes.watch(m, t, monitor(m, t), max_new_tokens=1)[1],
    "mixed": lambda m, t, c, d, **o: interp.lens.mixed(m, t),
    "patchscope": lambda m, t, c, d, **o: interp.lens.patchscope(m, t, "Mary gave a book to"),
    "values": lambda m, t, c, d, **o: interp.lens.values(m, 1, clusters=3),
    "lens of vectors": lambda m, t, c, d, **o: interp.lens.read(m, ["L1N3"]),
    "knockouts": lambda m, t, c, d, **o: interp.patching.knockouts(m, [t], {"s": ["L0H0"]}, draws=2, **o),
    "pairs": lambda m, t, c, d, **o: interp.patching.pairs(m, t, ["L0H0", "L1H1"], **o),
    "roles": lambda m, t, c, d, **o: heads.roles(m, t, io=2, s1=4, s2=-4, end=-1),
    "contexts": lambda m, t, c, d, **o: sae.contexts(m, axes(), t, [3, 70], top=2),
    "ce_changes": lambda m, t, c, d, **o: sae.methods.ce_changes(
        m, {"ioi": t}, {"out": steering.ablate(steering.mean_difference(m, t[:3], t[3:], layer=1))}
    ),
    "faithfulness": lambda m, t, c, d, **o: sae.faithfulness(m, t, feature_circuit(m, t), [axes()], **o),
    "itda_curve": lambda m, t, c, d, **o: sae.methods.itda_curve(m, "L1.resid_pre", t[:3], t[3:], [0.2, 0.5]),
    "principled": lambda m, t, c, d, **o: sae.methods.principled(
        m, t, axes(), {"answer": (t.answers[:, 0].tolist(), t.wrongs[:, 0].tolist())}
    ),
    "probe_regimes": lambda m, t, c, d, **o: sae.methods.probe_regimes(
        m, axes(), more(m)[:8], more(m)[8:], regimes={"scarcity": [4]}, draws=2, **o
    ),
    "stress": lambda m, t, c, d, **o: sae.methods.stress(
        m, axes(), [3], ["When {}"], {"name": ["Mary", "John"], "place": ["store"]}
    ),
    "fragility": lambda m, t, c, d, **o: sae.methods.fragility(
        _sweep(m, t, c, steering.mean_difference(m, t[:3], t[3:], layer=1), **o)
    ),
    "scores": lambda m, t, c, d, **o: heads.scores(m, lengths=[4], n=2, **o),
    "spectra": lambda m, t, c, d, **o: heads.spectra(m),
    "telemetry": lambda m, t, c, d, **o: heads.telemetry(m, t),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_results_keep_to_the_contract(
    name: str, model: Any, task: interp.Task, circuit: Any, tmp_path: Any
) -> None:
    result = OTHERS[name](model, task, circuit, None, **QUIET)
    results.check(result)
    assert result.attrs["model"] == ("none" if name in WITHOUT_A_MODEL else "tiny-ioi")
    result.to_netcdf(tmp_path / "result.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "result.nc", engine="h5netcdf") as again:
        xr.testing.assert_equal(again.load(), result)
    assert float(np.nanmax(np.abs(result["value"].values))) > 1e-3


def test_a_broken_contract_is_named(made: Callable[..., xr.Dataset]) -> None:
    result = made("patch")
    with pytest.raises(ValueError, match="lacks the attributes direction"):
        results.check(
            result.drop_attrs().assign_attrs({k: v for k, v in result.attrs.items() if k != "direction"})
        )
    with pytest.raises(ValueError, match="prompt comes first"):
        results.check(result.transpose("layer", ...))
