"""Circuits over features: edges against differences, sums against estimates, faithfulness against hooks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

import interp
from interp import sae
from interp.ablation import Mean
from interp.sae._graph import Node
from interp.sae._tracer import influence

QUIET: Any = {"progress": False}
F = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@pytest.fixture(scope="module")
def task() -> interp.Task:
    return interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )


def dictionary(model: Any, place: str, seed: int = 0, n: int = F, **more: Any) -> sae.Dictionary:
    d = model.cfg.d_model
    g = torch.Generator().manual_seed(seed)
    r = lambda *size: torch.randn(*size, generator=g, dtype=torch.float64)  # noqa: E731
    tensors = {"W_enc": r(d, n) / 5, "b_enc": 0.1 * r(n), "W_dec": r(n, d) / 5, "b_dec": 0.1 * r(d)}
    return sae.Dictionary(**{**tensors, **more}, place=place)


def pair(model: Any) -> list[sae.Dictionary]:
    return [dictionary(model, "L1.resid_pre"), dictionary(model, "L2.resid_pre", 1)]


@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_edges_into_the_next_site_add_up_to_the_estimate(
    ablation: str, model: Any, task: interp.Task
) -> None:
    found = sae.circuit(
        model, task, pair(model), nodes=None, edges=None, by="feature", ablation=ablation, **QUIET
    )
    out = {number: 0.0 for number, node in enumerate(found.nodes) if node.site == "L1.resid_pre"}
    for a, b, weight in found.edges:
        if a in out:
            assert found.nodes[b].site == "L2.resid_pre"  # nothing goes by it
            out[a] += weight
    assert len(out) > 10
    scores = [found.nodes[number].score for number in out]
    np.testing.assert_allclose(list(out.values()), scores, atol=1e-9)
    assert max(map(abs, scores)) > 1e-3
    each = interp.attribute(
        model, task, features=pair(model)[0], direction="noise", ablation=ablation, **QUIET
    )
    estimate = each["value"].mean("prompt").to_series().to_dict()
    named = {node.name: node.score for node in found.nodes if node.site == "L1.resid_pre"}
    assert named == pytest.approx({name: estimate[name] for name in named})


def test_an_edge_is_the_difference_that_it_makes(model: Any, task: interp.Task) -> None:
    """Move one feature a little, hold every other site, and see what the target makes of it."""
    low, high = dictionary(model, "L1.resid_pre"), dictionary(model, "L1.mlp_out", 1)
    found = sae.circuit(model, task[:1], [low, high], nodes=6, edges=None, **QUIET)
    cache = {
        name: model.run_with_cache(tokens)[1]
        for name, tokens in (("a", task[:1].clean), ("b", task[:1].corrupt))
    }
    x, other = (cache[run]["blocks.1.hook_resid_pre"] for run in "ab")
    edges = [(a, b, w) for a, b, w in found.edges if found.nodes[a].site == "L1.resid_pre"]
    inside = [e for e in edges if found.nodes[e[1]].site == "L1.mlp_out" and found.nodes[e[1]].is_feature]
    direct = [e for e in edges if found.nodes[e[1]].site == "logits"]
    assert len(inside) > 2
    assert len(direct) > 1
    for a, b, weight in [*inside[:4], *direct[:2]]:
        source, target = found.nodes[a], found.nodes[b]
        step = torch.zeros_like(x)
        if source.is_feature:
            gap = low.contributions(x) - low.contributions(other)
            step[:, source.pos] = gap[:, source.pos, source.feature, None] * low.W_dec[source.feature]
        else:
            step[:, source.pos] = (low.error(x) - low.error(other))[:, source.pos]
        ends = [moved(model, task[:1], x + h * step, high, target) for h in (1e-5, -1e-5)]
        assert weight == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-9)


def moved(model: Any, task: interp.Task, x: torch.Tensor, high: sae.Dictionary, target: Node) -> float:
    """The target with x at the lower site: a feature's φ (d · g) at what reaches the upper site, g of the
    model as it is; or the metric, the upper site held."""
    kept: dict[str, torch.Tensor] = {}
    hook = "blocks.1.hook_mlp_out"
    base = model.run_with_cache(task.clean)[1][hook].detach()

    def read(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        kept["reached"] = tensor
        return base

    hooks = [("blocks.1.hook_resid_pre", lambda tensor, hook: x), (hook, read)]
    with torch.no_grad():
        out = model.run_with_hooks(task.clean, fwd_hooks=hooks)
    if target.site == "logits":
        last = out[0, int(task.positions[0])]
        return float(last[task.answers[0, 0]] - last[task.wrongs[0, 0]])
    leaf = base.clone().requires_grad_()
    out = model.run_with_hooks(task.clean, fwd_hooks=[(hook, lambda tensor, hook: leaf)])
    last = out[0, int(task.positions[0])]
    (g,) = torch.autograd.grad(last[task.answers[0, 0]] - last[task.wrongs[0, 0]], leaf)
    phi = high.contributions(kept["reached"])[0, target.pos, target.feature]
    return float(phi * (high.W_dec[target.feature] @ g[0, target.pos]))


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_all_nodes_are_the_model_and_none_the_baseline(ablation: str, model: Any, task: interp.Task) -> None:
    both = pair(model)
    whole = sae.circuit(model, task, both, nodes=None, by="feature", ablation=ablation, **QUIET)
    nodes = [Node(d_site, i, -1, 0.0) for d_site in whole.sites for i in range(-1, F)]
    whole = sae.FeatureGraph(whole.sites, tuple(nodes), ())
    judged = sae.faithfulness(model, task, whole, both, ablation=ablation, **QUIET)
    assert bool((judged["raw"].sel(run="circuit") == judged["clean"]).all())  # to the bit
    np.testing.assert_allclose(judged["faithfulness"].sel(run=["circuit", "complement"]), [1, 0], atol=1e-12)
    assert abs(judged["clean"] - judged["empty"]).min() > 1e-3
    nothing = sae.FeatureGraph(whole.sites, (), ())
    empty = sae.faithfulness(model, task, nothing, both, ablation=ablation, **QUIET)
    np.testing.assert_allclose(empty["raw"].sel(run="circuit"), empty["empty"])
    np.testing.assert_allclose(empty["raw"].sel(run="complement"), empty["clean"])
    if ablation == "zero":
        puts = [partial(lambda t, hook, b: b.expand_as(t), b=d.b_dec) for d in both]
        np.testing.assert_allclose(judged["empty"], by_hand(model, task, puts), atol=1e-9)
        puts = [
            partial(lambda t, hook, d: d(t), d=d) for d in both
        ]  # both reconstructions, one after the other
        np.testing.assert_allclose(judged["raw"].sel(run="no error"), by_hand(model, task, puts), atol=1e-9)


def by_hand(model: Any, task: interp.Task, puts: list[Any]) -> np.ndarray:
    hooks = [(f"blocks.{layer}.hook_resid_pre", put) for layer, put in zip((1, 2), puts)]
    with torch.no_grad():
        out = model.run_with_hooks(task.clean, fwd_hooks=hooks)
    row = torch.arange(len(task))
    last = out[row, task.positions]
    return (last[row, task.answers[:, 0]] - last[row, task.wrongs[:, 0]]).numpy()


def test_errors_bracket_a_circuit(model: Any, task: interp.Task) -> None:
    both = pair(model)
    found = sae.circuit(model, task, both, nodes=8, by="feature", ablation="zero", **QUIET)
    assert 0 < found.error_share < 1
    judged = sae.faithfulness(model, task, found, both, ablation="zero", **QUIET)
    np.testing.assert_allclose(judged["raw"].sel(run="circuit"), judged["raw"].sel(run="every error"))
    assert abs(judged["raw"].sel(run="every error") - judged["raw"].sel(run="no error")).max() > 1e-3
    fewer = found.top(3)
    assert len(fewer.features) == 3
    assert {n.name for n in fewer.features} == {n.name for n in found.features[:3]}
    a, b, weight = fewer.edges[0]
    assert found.weight(fewer.nodes[a].name, fewer.nodes[b].name) == weight


@pytest.mark.parametrize(("family", "skip"), [("gpt2", False), ("llama", True)])
def test_transcoders_are_sites_too(family: str, skip: bool) -> None:
    """What reads the MLP's input and writes its output: patched, and as nodes, on bridges as well. A skip
    stands in the error."""
    model = small.bridge(family)
    task = interp.Task.from_tokens(
        clean=[[5, 6, 7, 8], [9, 4, 3, 2]], corrupt=[[5, 6, 7, 9], [8, 4, 3, 2]], answer=[3, 4], wrong=[4, 5]
    )
    d = dictionary(model, "L1.mlp_out", reads="mlp_normed")
    if skip:
        d = d.but(W_skip=torch.randn(d.d, d.d, generator=torch.Generator().manual_seed(2)).double() / 5)
    swept = interp.patch(model, task, features=d, direction="noise", **QUIET)
    slow = interp.patch(model, task, features=d, direction="noise", engine="reference", **QUIET)
    np.testing.assert_allclose(swept["value"], slow["value"], atol=2e-6)
    names = [str(name) for name in swept["feature"].values]
    together = interp.patch(model, task, features=d, direction="noise", cells=[names], **QUIET)["value"][:, 0]
    site = interp.patch(model, task, cells=["L1.mlp_out"], direction="noise", **QUIET)["value"][:, 0]
    np.testing.assert_allclose(together, site, atol=2e-6)
    shares = sae.to_logits(model, task, d)
    total = shares["value"].sum("feature") + shares["constant"] + shares["rest"]
    np.testing.assert_allclose(total, shares["raw"], atol=1e-5)
    low = dictionary(model, "L1.resid_pre", 2)
    found = sae.circuit(model, task, [d, low], nodes=10, by="feature", **QUIET)
    assert found.sites == ("L1.resid_pre", "L1.mlp_out")
    inside = [w for a, b, w in found.edges if (found.nodes[a].site, found.nodes[b].site) == found.sites]
    assert len(inside) > 5
    judged = sae.faithfulness(model, task, found, [d, low], **QUIET)
    assert 0 < abs(float(judged["faithfulness"].sel(run="no error")) - 1) < 50


def test_a_graph_is_kept_by_its_file(model: Any, task: interp.Task, tmp_path: Path) -> None:
    found = sae.circuit(model, task, pair(model), nodes=5, **QUIET)
    again = sae.FeatureGraph.load(found.save(tmp_path / "graph.json"))
    assert (again.nodes, again.edges, again.sites, again.tokens) == (
        found.nodes,
        found.edges,
        found.sites,
        found.tokens,
    )
    assert again.provenance == found.provenance
    data = json.loads((tmp_path / "graph.json").read_text())
    broken: list[tuple[dict[str, Any], str]] = [
        ({"format": "other"}, "is no feature graph"),
        ({"edges": [[0, 999, 1.0]]}, "are not there|not there"),
        ({"nodes": [["L1.resid_pre", 3, -1, float("inf"), 0.0]], "edges": []}, "not finite"),
        ({"nodes": data["nodes"] + data["nodes"][:1]}, "is in the graph twice"),
        ({"nodes": [["L7.z", 1, -1, 0.0, 0.0]], "edges": []}, "lies at no site"),
        ({"nodes": 3}, "is damaged"),
    ]
    for change, said in broken:
        (tmp_path / "broken.json").write_text(json.dumps({**data, **change}))
        with pytest.raises(ValueError, match=said):
            sae.FeatureGraph.load(tmp_path / "broken.json")


def test_a_graph_opens_in_circuit_tracer(model: Any, task: interp.Task, tmp_path: Path) -> None:
    early = interp.Task.from_tokens(
        clean=[[5, 6, 7, 8]], corrupt=[[5, 9, 7, 8]], answer=[3], wrong=[4], positions=[2]
    )
    found = sae.circuit(model, early, pair(model), nodes=7, **QUIET)
    path = sae.to_tracer(found, tmp_path / "graph.json", n_layers=3, answer=(3, "yes"))
    data = json.loads(path.read_text())
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(set(ids)) == len(ids) == len(found.nodes)
    assert {link[end] for link in data["links"] for end in ("source", "target")} <= set(ids)
    keys = (
        "node_id feature layer ctx_idx feature_type token_prob is_target_logit run_idx reverse_ctx_idx "
        "jsNodeId clerp influence activation"
    )
    assert all(set(node) == set(keys.split()) for node in data["nodes"])
    assert {
        "slug",
        "scan",
        "transcoder_list",
        "prompt_tokens",
        "prompt",
        "node_threshold",
        "schema_version",
    } == set(data["metadata"])
    best = found.features[0]
    layer = int(best.site[1])
    node = data["nodes"][ids.index(f"{layer}_{best.feature}_{best.pos}")]
    total = layer + best.feature
    assert node["feature"] == total * (total + 1) // 2 + best.feature
    assert [n["node_id"] for n in data["nodes"] if n["is_target_logit"]] == ["4_3_2"]  # where it is read
    there = [n for n in data["nodes"] if n["ctx_idx"] == 2]
    marks = {n["feature_type"]: (n["node_id"], n["feature"], n["jsNodeId"]) for n in there}
    assert marks["logit"] == ("4_3_2", 3, "L_3-2")  # these three as circuit-tracer 0.5.0 writes them
    assert marks["embedding"] == ("E_7_2", 2, "E_7-2")
    assert marks["mlp reconstruction error"] == ("0_2_2", -1, "2_2-0")
    assert node["jsNodeId"] == f"{layer}_{best.feature}-0"
    assert sae.FeatureGraph.load(found.save(tmp_path / "kept.json")).end == found.end == 2
    with pytest.raises(ValueError, match="end is 4; the prompt of the graph has 4 tokens"):
        replace(found, end=4)
    shares = influence(found)
    into = [a for a, b, _ in found.edges if found.nodes[b].site == "logits"]
    assert shares[-1] == 1
    assert sum(shares[a] for a in into) == pytest.approx(1)
    twins = (Node("L0.resid_pre", 1, 2, 1.0), Node("L1.resid_pre", -1, 2, 1.0))
    mixed = sae.FeatureGraph(("L0.resid_pre", "L1.resid_pre"), twins, (), found.tokens, found.ids)
    for graph, said in (
        (mixed, r"L0\.resid_pre\.F1@2 and L1\.resid_pre\.error@2 would both be '0_1_2'"),
        (sae.circuit(model, task, pair(model), nodes=3, **QUIET), "of several prompts"),
        (sae.circuit(model, task[:1], pair(model), nodes=3, by="feature", **QUIET), "without positions"),
    ):
        with pytest.raises(ValueError, match=said):
            sae.to_tracer(graph, tmp_path / "no.json", n_layers=3, answer=(3, "yes"))
    options: Any = {"n_layers": 3, "answer": (3, "yes")}
    for wrong, said in (
        ({"n_layers": 2}, "n_layers is 2, and the graph has a site in layer 2"),
        ({"probability": 2.0}, "probability is 2.0; give a share"),
        ({"node_threshold": -1.0}, "node_threshold is -1.0; give a share"),
    ):
        with pytest.raises(ValueError, match=said):
            sae.to_tracer(found, tmp_path / "no.json", **{**options, **wrong})


def test_circuits_are_checked_before_a_pass(model: Any, task: interp.Task) -> None:
    both = pair(model)
    cases: list[tuple[list[sae.Dictionary], dict[str, Any], str]] = [
        ([], {}, "dictionaries is empty"),
        ([both[0], both[0]], {}, "two dictionaries lie at L1.resid_pre"),
        (both, {"ablation": "gaussian"}, "gaussian ablation of a circuit"),
        (both, {"by": "head"}, "by is 'head'"),
        (both, {"nodes": 0}, "keep one of each"),
        (both, {"metric": [interp.tasks.LogitDiff(), interp.tasks.KL()]}, "scores of one"),
    ]
    for dictionaries, arguments, said in cases:
        with pytest.raises(ValueError, match=said):
            sae.circuit(model, task, dictionaries, **arguments)
    found = sae.circuit(model, task, both, nodes=3, **QUIET)
    with pytest.raises(ValueError, match="the graph is of L1"):
        sae.faithfulness(model, task, found, both[:1])
    few = [d.but(W_enc=d.W_enc[:, :1], b_enc=d.b_enc[:1], W_dec=d.W_dec[:1]) for d in both]
    with pytest.raises(ValueError, match="it is another"):
        sae.faithfulness(model, task, found, few)


@pytest.mark.parametrize("by", ["pos", "feature"])
def test_pads_are_no_part_of_an_activation(by: str, model: Any) -> None:
    rows = {
        "clean": [[5, 6, 7, 8], [9, 4]],
        "corrupt": [[5, 6, 7, 9], [8, 4]],
        "answer": [3, 4],
        "wrong": [4, 5],
    }
    each = [{name: [values[i]] for name, values in rows.items()} for i in (0, 1)]
    graphs = [
        sae.circuit(
            model,
            interp.Task.from_tokens(**part),
            [dictionary(model, "L1.resid_pre")],
            nodes=None,
            by=by,
            ablation="zero",
            **QUIET,
        )
        for part in (rows, *each)
    ]
    both, *alone = (
        {node.name: node.activation for node in graph.nodes if node.feature == -1} for graph in graphs
    )
    for name in (name for name in both if name.startswith("L1")):
        assert both[name] == pytest.approx(sum(part.get(name, 0.0) for part in alone) / 2)


def test_the_mean_stands_in_for_embeddings_too(model: Any, task: interp.Task) -> None:
    """Of one prompt the mean is the prompt itself; of two, half of what they differ by is taken away."""
    d = [dictionary(model, "L1.resid_pre")]
    graph = sae.circuit(model, task[:1], d, ablation=Mean(over=task.clean[:1]), **QUIET)
    assert max(abs(node.score) for node in graph.nodes) < 1e-12
    graph = sae.circuit(model, task, d, nodes=None, ablation=Mean(over=task.clean), **QUIET)
    sides = [(task.clean[i : i + 1], task.clean[1 - i : 2 - i]) for i in (0, 1)]
    total = 0.0
    for number, (mine, other) in enumerate(sides):
        kept: dict[str, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, hook: Any, kept: dict[str, torch.Tensor] = kept) -> torch.Tensor:
            kept["x"] = tensor.detach().requires_grad_()
            return kept["x"]

        with torch.enable_grad():
            out = model.run_with_hooks(mine, fwd_hooks=[("hook_embed", keep)])[0, -1]
            metric = out[task.answers[number, 0]] - out[task.wrongs[number, 0]]
            (slope,) = torch.autograd.grad(metric, kept["x"])
        half = (kept["x"] - model.embed(other)).detach() / 2
        total += float((half * slope).sum())
    scores = [node.score for node in graph.nodes if node.site == "embed"]
    assert sum(scores) == pytest.approx(total / 2)
    assert abs(total) > 1e-3


def test_memory_bounds_the_prompts_of_a_batch(monkeypatch, model: Any, task: interp.Task) -> None:
    """One at a time where no more fit; the same numbers."""
    from interp.sae import _circuit, _faithful

    sizes: list[int] = []
    for module in (_circuit, _faithful):
        rows = module.rows_at_once
        monkeypatch.setattr(module, "rows_at_once", lambda *a, rows=rows: sizes.append(rows(*a)) or sizes[-1])

    def both(**memory: int) -> tuple[list[float], np.ndarray]:
        found = sae.circuit(model, task, pair(model), nodes=6, **memory, **QUIET)
        judged = sae.faithfulness(model, task, found, pair(model), **memory, **QUIET)
        return [weight for *_, weight in found.edges], judged["raw"].values

    large, small_ = both(), both(memory=40_000)
    assert sizes == [8, 32, 1, 1]
    for a, b in zip(large, small_):
        np.testing.assert_allclose(a, b, atol=1e-12)
