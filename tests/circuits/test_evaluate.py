"""Evaluation of circuits, against forwards with cut edges one by one; the whole model and nothing."""

from __future__ import annotations

import masks as M
import naive
import numpy as np
import pytest
import torch
from architectures import build, grid
from scipy.integrate import trapezoid
from scipy.stats import hypergeom
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp import circuits
from interp.circuits import Circuit, Graph
from interp.circuits._judge.evaluate import without
from interp.circuits._paths import on_paths
from interp.circuits._run import batch, state
from interp.tasks import KL, LogitDiff, Prob, Rank, Task

CONFIGS = dict(grid())
MEASURES = ("faithfulness", "kl", "completeness", "minimality")
NAMES = ("LN-gelu_new-plain-serial-mha-learned", "RMS-silu-gated-parallel-gqa-rotary", "attn-only")


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return build(CONFIGS[request.param])


@pytest.fixture(scope="module")
def task() -> Task:
    rng = torch.Generator().manual_seed(5)
    clean = torch.randint(0, 20, (4, 6), generator=rng)
    corrupt = clean.clone()
    corrupt[:, 1:3] = torch.randint(0, 20, (4, 2), generator=rng)
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=torch.arange(4), wrong=torch.arange(4, 8))


def some(graph: Graph, share: float, seed: int, name: str = "some") -> Circuit:
    draw = torch.rand(graph.allowed.shape, generator=torch.Generator().manual_seed(seed)) < share
    return Circuit(graph, graph.allowed & draw, name=name)


def value(model, task: Task, mask: torch.Tensor) -> np.ndarray:
    """The logit difference of a circuit, by prompt, from one forward with hooks."""
    graph = Graph.of(model)
    cut = [graph.name(w, r) for w, r in (graph.allowed & ~mask).nonzero().tolist()]
    _, replaced = naive.forward(model, task.corrupt)
    logits, _ = naive.forward(model, task.clean, cut, replaced)
    rows = torch.arange(len(task))
    last = logits[rows, task.positions]
    return (last[rows, task.answer] - last[rows, task.wrong]).numpy()


def test_every_number_against_hooks(model, task) -> None:
    graph = Graph.of(model)
    circuit = some(graph, 0.6, 1)
    found = circuits.evaluate(model, task, circuit, measures=MEASURES, subsets=2, seed=3).isel(circuit=0)
    whole, empty = (value(model, task, m) for m in (graph.allowed, torch.zeros_like(graph.allowed)))
    kept, rest = (value(model, task, m) for m in (circuit.mask, graph.allowed & ~circuit.mask))
    gap = (whole - empty).mean()
    assert abs(gap) > 1e-4
    for name, expected in (("clean", whole), ("empty", empty), ("raw", kept), ("complement", rest)):
        np.testing.assert_allclose(found[name], expected, atol=1e-9)
    np.testing.assert_allclose(found["value"], kept - empty, atol=1e-9)
    assert float(found["faithfulness"]) == pytest.approx((kept - empty).mean() / gap, abs=1e-8)
    assert float(found["without"]) == pytest.approx((rest - empty).mean() / gap, abs=1e-8)
    assert float(found["mean_of_ratios"]) == pytest.approx(
        ((kept - empty) / (whole - empty)).mean(), rel=1e-6
    )
    # a few random prompts, whose gap could be 0: the ratio has no interval
    assert np.isnan([float(found["low"]), float(found["high"])]).all()
    node = next(n for n in circuit.nodes() if n.startswith("a1"))
    fewer = value(model, task, without(circuit.mask, graph, [node]))
    expected = (kept - fewer).mean() / gap
    assert float(found["minimality"].sel(node=node)) == pytest.approx(expected, abs=1e-7)
    outside = [n for n in graph.nodes if n not in circuit.nodes()]
    assert np.isnan(found["minimality"].sel(node=[*outside, "input", "logits"])).all()
    assert float(found["incompleteness"].max()) > 1e-6
    assert int(found["edges"]) == circuit.n_edges
    assert found.attrs["ablation"] == "resample"


def test_the_whole_model_and_nothing(model, task) -> None:
    graph = Graph.of(model)
    every = Circuit(graph, graph.allowed, name="whole")
    found = circuits.evaluate(model, task, [every, every - every], measures=MEASURES[:3], subsets=3)
    np.testing.assert_allclose(found["faithfulness"], [1, 0], atol=1e-9)
    np.testing.assert_allclose(found["without"], [0, 1], atol=1e-9)
    np.testing.assert_allclose(found["kl"][:, 0], 0, atol=1e-9)
    assert float(found["kl"][:, 1].min()) > 1e-9
    np.testing.assert_allclose(found["incompleteness"][0], 0, atol=1e-9)


def test_one_prompt_has_no_interval(model, task) -> None:
    circuit = some(Graph.of(model), 0.6, 1)
    found = circuits.evaluate(model, task[:1], circuit)
    assert np.isfinite(found["faithfulness"]).all()
    assert np.isnan(found["low"]).all()


def test_a_curve_ends_at_the_whole_model(model, task) -> None:
    scores = circuits.score_edges(model, task, method="exact")
    sizes = [0.05, 0.3, 1.0]
    found = circuits.curve(model, task, scores, sizes=sizes)
    np.testing.assert_allclose(found["faithfulness"].sel(size=1.0), 1, atol=1e-9)
    assert (found["edges"].values <= np.round(np.array(sizes) * Graph.of(model).n_edges)).all()
    signed, absolute = (found["faithfulness"].sel(ranking=name).values for name in ("signed", "absolute"))
    assert found.attrs["cpr"] == pytest.approx(trapezoid(signed, sizes))
    assert found.attrs["cmd"] == pytest.approx(trapezoid(abs(1 - absolute), sizes))
    plain = circuits.curve(model, task, scores, sizes=sizes, paths=False)
    graph = Graph.of(model)
    assert plain["edges"].values.tolist() == [[max(1, round(s * graph.n_edges)) for s in sizes]] * 2
    kept = circuits.top(scores, round(0.3 * graph.n_edges))
    np.testing.assert_allclose(
        plain["raw"].sel(ranking="absolute", size=0.3), value(model, task, kept.mask), atol=1e-9
    )
    np.testing.assert_allclose(
        found["raw"].sel(ranking="absolute", size=0.3),
        value(model, task, on_paths(graph, kept.mask)),
        atol=1e-9,
    )


def test_random_circuits(model, task) -> None:
    for kind in ("uniform", "paths"):
        first, second = (
            circuits.random_baseline(model, task, [4, 20], kind=kind, draws=5, seed=7) for _ in range(2)
        )
        np.testing.assert_array_equal(first["faithfulness"], second["faithfulness"])
        assert first["faithfulness"].shape == (2, 5)
        assert float(abs(first["faithfulness"]).max()) > 0
        np.testing.assert_allclose(
            first["quantile"].sel(level=0.5), np.median(first["faithfulness"], 1), atol=1e-12
        )
        assert (first["edges"].values >= [[4], [20]]).all()


def test_hypotheses_on_a_model() -> None:
    """Numbers are those of `run`; a circuit without its strongest edge is not equivalent."""
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=24)
    circuit = circuits.prune(circuits.top(circuits.score_edges(model, task, method="exact"), 30))
    found = circuits.hypothesis_tests(model, task, circuit, draws=10)
    graph = Graph.of(model)
    kept, whole = M.raw(model, task, torch.stack([circuit.mask, graph.allowed])).numpy()
    share = (kept > whole).sum() / (kept != whole).sum()
    assert float(found["statistic"].sel(test="equivalence")) == pytest.approx(share)
    assert found.sizes["edge"] == circuit.n_edges
    strongest = str(found["edge"].values[int(found["effect"].values.argmax())])
    less = circuit - Circuit.from_edges(graph, [strongest])
    cut = M.raw(model, task, less).numpy()[0]
    assert float(found["effect"].max()) == pytest.approx(abs(kept - cut).mean(), rel=1e-5)
    assert float(found["p_edge"].sel(edge=strongest)) == 1.0
    worse = circuits.hypothesis_tests(model, task, less, draws=10)
    assert bool(worse["rejected"].sel(test="equivalence"))


def test_compare() -> None:
    graph = Graph(2, 3)
    a = Circuit.from_edges(graph, ["input->a0.h0<v>", "a0.h0->m1", "m1->logits"], name="a")
    b = Circuit.from_edges(graph, ["a0.h0->m1", "a0.h1->m1", "m1->logits", "input->logits"], name="b")
    found = circuits.compare(a, b)
    edges = found.sel(kind="edges")
    assert [int(edges[name]) for name in ("a", "b", "both", "total")] == [3, 4, 2, graph.n_edges]
    assert float(edges["jaccard"]) == pytest.approx(2 / 5)
    assert float(edges["expected"]) == pytest.approx(12 / graph.n_edges)
    chance = sum(hypergeom.pmf(k, graph.n_edges, 3, 4) for k in (2, 3))
    assert float(edges["p"]) == pytest.approx(chance)
    assert found.attrs["shared_heads"] == "a0.h0"
    assert found.attrs["shared_edges"] == "a0.h0->m1, m1->logits"
    assert float(circuits.compare(a, a)["jaccard"].sel(kind="heads")) == 1.0
    with pytest.raises(ValueError, match="different graphs"):
        circuits.compare(a, Circuit.from_edges(Graph(3, 3), ["input->logits"]))


def test_bad_input_before_the_first_pass(model, task) -> None:
    graph = Graph.of(model)
    circuit = some(graph, 0.5, 2)
    scored = Circuit(graph, circuit.mask, torch.ones(graph.allowed.shape))

    def stop(tensor: torch.Tensor, hook) -> None:
        raise AssertionError("a forward pass began")

    with model.hooks(fwd_hooks=[("hook_embed", stop)]):
        with pytest.raises(ValueError, match="circuit of another model"):
            circuits.evaluate(model, task, some(Graph(7, 2), 0.5, 0))
        with pytest.raises(ValueError, match=r"measure 'minimal' is not one of .* did you mean 'minimality'"):
            circuits.evaluate(model, task, circuit, measures=("kl", "minimal"))
        with pytest.raises(ValueError, match="level is 95"):
            circuits.evaluate(model, task, circuit, level=95.0)
        with pytest.raises(ValueError, match="subsets is -1"):
            circuits.evaluate(model, task, circuit, subsets=-1)
        with pytest.raises(ValueError, match="has no scores"):
            circuits.curve(model, task, circuit)
        with pytest.raises(ValueError, match="growing shares"):
            circuits.curve(model, task, scored, sizes=[0.5, 0.1])
        with pytest.raises(ValueError, match="kind is 'walks'"):
            circuits.random_baseline(model, task, 5, kind="walks")
        with pytest.raises(ValueError, match="sizes"):
            circuits.random_baseline(model, task, graph.n_edges + 1)
        with pytest.raises(ValueError, match="some edges"):
            circuits.hypothesis_tests(model, task, circuit - circuit)


def test_all_metrics_and_measures_are_read_off_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One preparation, one base run for each block of prompts, one row for each circuit: KL costs nothing
    beside the logit difference. (Before, each metric had a run of its own: 4 base runs and 5 rows here.)"""
    model, graph = interp.load("tiny-ioi"), Graph(3, 4)
    task = interp.tasks.ioi(model, n=4)
    bases, rows, forwards = [], [], []
    init, values = state.Base.__init__, batch.values
    monkeypatch.setattr(state.Base, "__init__", lambda self, *a: bases.append(1) or init(self, *a))
    monkeypatch.setattr(
        batch, "values", lambda base, s, m, lazy: rows.append(len(m)) or values(base, s, m, lazy)
    )
    chosen = [some(Graph.of(model), 0.6, seed, f"c{seed}") for seed in (1, 2)]
    count = lambda tensor, hook: forwards.append(1)  # noqa: E731
    circuits.run(model, task, chosen, progress=False)  # the trust check has been here
    bases.clear(), rows.clear()
    with model.hooks(fwd_hooks=[("hook_embed", count)]), pytest.raises(ValueError, match="hooks"):
        circuits.evaluate(model, task, chosen, progress=False)
    found = circuits.evaluate(model, task, chosen, metric=[LogitDiff(), Prob(), Rank()], progress=False)
    assert (len(bases), sum(rows), len(forwards)) == (1, 3, 0)  # the third is the one that keeps nothing
    assert found["faithfulness"].dims == ("circuit", "metric")
    assert found["kl"].dims == ("prompt", "circuit")
    assert graph == Graph.of(model)
    bases.clear(), rows.clear()
    alone = circuits.evaluate(model, task, chosen, metric=Prob(), progress=False)
    np.testing.assert_allclose(found["raw"].sel(metric="prob"), alone["raw"], atol=1e-9)
    np.testing.assert_allclose(found["kl"], alone["kl"], atol=1e-9)


def test_a_measure_costs_only_where_it_is_asked_for() -> None:
    """`evaluate` of faithfulness is `run` to the last product, and KL adds the vocabulary that it reads; sets
    of nodes and nodes one by one are run only by name."""
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4)
    circuit = circuits.prune(circuits.top(circuits.score_edges(model, task, progress=False), 40))
    options = {"progress": False}
    circuits.run(model, task, circuit, **options)  # the trust check has been here
    alone = _flops(lambda: circuits.run(model, task, circuit, **options))
    both = _flops(lambda: circuits.run(model, task, circuit, metric=[LogitDiff(), KL()], **options))
    of = {
        names: _flops(lambda names=names: circuits.evaluate(model, task, circuit, measures=names, **options))
        for names in (("faithfulness",), ("faithfulness", "kl"), ("completeness",), ("minimality",))
    }
    assert of["faithfulness",] == alone > 0
    assert (
        of["faithfulness", "kl"] == both == _flops(lambda: circuits.evaluate(model, task, circuit, **options))
    )
    assert min(of["completeness",], of["minimality",]) > alone


def _flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
