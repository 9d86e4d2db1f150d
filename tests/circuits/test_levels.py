"""Circuits of whole nodes and of MLP neurons, from scores to faithfulness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import circuits
from interp.circuits import Graph, neuron_curve, score_nodes, threshold, top
from interp.tasks import Task

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model: Any) -> Task:
    return interp.tasks.ioi(model, n=6, seed=0)


@pytest.mark.parametrize("method", ["eap", "exact"])
def test_a_circuit_of_nodes_has_every_edge_between_them(method: str, model: Any, task: Task) -> None:
    scores = score_nodes(model, task, method=method, **QUIET)
    mean = scores["value"].mean("prompt")
    best = sorted(map(str, mean["writer"].values[1:]), key=lambda name: -abs(float(mean.sel(writer=name))))
    found = top(scores, 5)
    assert set(found.nodes()) == {*best[:5], "input", "logits"}
    graph = Graph.of(model)
    edges = {
        f"{writer}->{reader}"
        for writer, reader in (
            (graph.writers[w], graph.readers[r]) for w, r in graph.allowed.nonzero().tolist()
        )
        if writer in {*best[:5], "input"} and reader.split("<")[0] in {*best[:5], "logits"}
    }
    assert set(found.edges()) == edges
    assert found.provenance["granularity"] == "nodes"
    limit = abs(float(mean.sel(writer=best[2])))
    assert set(threshold(scores, limit).nodes()) == {*best[:3], "input", "logits"}
    assert torch.equal(top(scores, len(best)).mask, graph.allowed)


def test_cutting_all_but_a_node_is_what_its_exact_score_says(model: Any, task: Task) -> None:
    scores = score_nodes(model, task, method="exact", **QUIET)
    graph = Graph.of(model)
    inner = graph.writers[1:]
    mean = scores["value"].mean("prompt")
    worst = min(inner, key=lambda name: abs(float(mean.sel(writer=name))))
    rest = circuits.run(model, task, top(scores, len(inner) - 1), **QUIET)
    effect = float((rest["clean"] - rest["raw"][:, 0]).mean())
    assert effect == pytest.approx(float(mean.sel(writer=worst)), abs=1e-4)
    assert abs(effect) > 1e-4


def test_grouped_keys_and_saved_results(tmp_path: Any) -> None:
    """The graph of a result of nodes is in its attributes, also after a file, and with shared keys."""
    for graph in (Graph(2, 4, 2), Graph(3, 2, attn_only=True), Graph(2, 2, parallel=True)):
        assert Graph.from_sizes(graph.sizes) == graph
    with pytest.raises(ValueError, match="are not the five sizes of a graph"):
        Graph.from_sizes("")


def test_nodes_that_cannot_be_chosen_are_sentences(model: Any, task: Task) -> None:
    scores = score_nodes(model, task, **QUIET)
    with pytest.raises(ValueError, match="n is 16; there are 15 heads and MLPs"):
        top(scores, 16)
    by_metric = score_nodes(model, task, metric=["logit_diff", "kl"], direction="denoise", **QUIET)
    with pytest.raises(ValueError, match="the scores of nodes have dims"):
        top(by_metric, 3)


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_neurons_are_kept_as_by_patching_all_others(ablation: str, model: Any, task: Task) -> None:
    """`patch` with a list of all other neurons, by another engine, gives the same metric."""
    effects = interp.attribute(
        model, task, "post", ("layer", "neuron"), ablation=ablation, direction="noise", **QUIET
    )
    found = neuron_curve(model, task, effects, sizes=[0.9, 1.0], ablation=ablation, **QUIET)
    mean = effects["value"].mean("prompt")
    order = np.argsort(-np.abs(mean.values.ravel()), kind="stable")
    n = round(0.9 * mean.size)
    others = [f"L{at // mean.shape[1]}N{at % mean.shape[1]}" for at in order[n:].tolist()]
    patched = interp.patch(model, task, cells=[others], ablation=ablation, direction="noise", **QUIET)
    raw = (patched["clean"] - patched["value"][:, 0]).values
    np.testing.assert_allclose(found["raw"].sel(ranking="absolute")[:, 0], raw, atol=1e-4)
    np.testing.assert_allclose(found["faithfulness"][:, -1], 1.0, atol=1e-6)
    np.testing.assert_allclose(found["clean"], patched["clean"], atol=1e-4)
    assert abs(found["clean"] - found["empty"]).max() > 0.1
    assert found["neurons"].values.tolist() == [[n, mean.size]] * 2
    kept = found["value"][:, 1, 1] - (found["clean"] - found["empty"])
    assert abs(kept).max() < 1e-4


def test_neurons_that_cannot_be_kept_are_sentences(model: Any, task: Task) -> None:
    effects = interp.attribute(model, task, "post", ("layer", "neuron"), direction="noise", **QUIET)
    heads = interp.attribute(model, task, "z", direction="noise", **QUIET)
    for given, options, words in [
        (heads, {}, "the effects have dims .'head', 'layer'.; they need layer and neuron"),
        (effects.isel(neuron=slice(9)), {}, "of 3 layers and 9 neurons, the model has 3 and 256"),
        (effects.where(effects["layer"] > 0), {}, "some effects are NaN"),
        (effects, {"sizes": [0.5, 0.2]}, "give growing shares of all edges .or neurons."),
        (effects, {"ablation": "gaussian"}, "noise has several draws"),
        (effects, {"level": 2}, "level is 2"),
    ]:
        with pytest.raises(ValueError, match=words):
            neuron_curve(model, task, given, **options, **QUIET)
