"""ACDC: its decisions are those of the search that tries one edge after the other."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import architectures
import held
import masks as M
import numpy as np
import pytest
import torch

import interp
from interp import circuits
from interp.circuits import Circuit, Graph
from interp.circuits._reference import acdc_one_by_one
from interp.circuits._search.decisions import Rule, Search, edge_order
from interp.models.handmade import gates, truth
from interp.tasks import KL, LogitDiff
from interp.tasks import or_gate as or_gate_task
from interp.tasks.handmade import some_inputs

GROUPED = {
    "n_layers": 2,
    "n_heads": 2,
    "n_key_value_heads": 1,
    "parallel_attn_mlp": True,
    "normalization_type": "RMS",
}
QUIET = {"progress": False}


@functools.lru_cache
def model_of(shape: str) -> Any:
    if shape == "small" or not architectures.has_hooked_transformer():
        return M.tiny()
    return architectures.build(GROUPED)


@functools.lru_cache
def one_by_one(shape: str, threshold: float, **options: Any) -> list:
    return acdc_one_by_one(model_of(shape), M.task(), threshold, **options)[0]


def agree(found: Circuit, steps: list, atol: float = 1e-9) -> None:
    """The same edges in the same order, decided alike, with the same metric."""
    trace = circuits.trace(found)
    assert [step.edge for step in trace] == [step.edge for step in steps]
    assert [step.kept for step in trace] == [step.kept for step in steps]
    np.testing.assert_allclose([s.value for s in trace], [s.value for s in steps], atol=atol)
    assert found.edges() == Circuit.from_edges(found.graph, kept(steps)).edges()


def kept(steps: list) -> list[str]:
    return [step.edge for step in steps if step.kept]


CHOICES = itertools.product((0.01, 0.003, 0.0005), ("late", "early"))
GRID = [
    *(("small", *choice, False, KL(), "resample") for choice in CHOICES),
    *(("small", threshold, "late", True, KL(), "resample") for threshold in (0.01, 0.002)),
    ("small", 0.1, "late", False, LogitDiff(), "resample"),
    ("small", 0.1, "late", True, LogitDiff(), "zero"),
    ("grouped", 0.01, "late", False, KL(), "mean"),
    ("grouped", 0.02, "early", True, LogitDiff(), "resample"),
]


@pytest.mark.parametrize(("shape", "threshold", "order", "absolute", "metric", "ablation"), GRID)
def test_the_decisions_are_the_sequential_ones(
    shape: str, threshold: float, order: str, absolute: bool, metric: Any, ablation: str
) -> None:
    model, task = model_of(shape), M.task()
    options = {"order": order, "absolute": absolute, "metric": metric, "ablation": ablation}
    steps = one_by_one(shape, threshold, **options)
    found = circuits.acdc(model, task, threshold, **options, **QUIET)
    agree(found, steps)
    assert 0 < found.n_edges < found.graph.n_edges
    assert max(abs(step.value) for step in steps if not math.isnan(step.value)) > 1e-3
    assert found.provenance["n_ties"] <= 1  # or there would be nothing to agree on


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_neither_batches_nor_guesses_matter(size: int) -> None:
    model, task = model_of("small"), M.task()
    steps = one_by_one("small", 0.002)
    graph = Graph.of(model)
    right = Circuit.from_edges(graph, kept(steps))
    wrong = Circuit(graph, graph.allowed & ~right.mask)
    rows = []
    for guess in (right, None, wrong):
        found = circuits.acdc(model, task, 0.002, batch_size=size, guess=guess, **QUIET)
        agree(found, steps)
        rows.append(found.provenance["rows"])
    assert rows[0] <= rows[1] <= rows[2] or size == 1
    assert rows[0] == found.provenance["decided_by_a_run"]  # a right guess wastes nothing


def test_no_edge_is_bad_enough_or_every_one_is() -> None:
    model, task = model_of("small"), M.task()
    everything = circuits.acdc(model, task, -math.inf, **QUIET)
    assert everything.n_edges == everything.graph.n_edges
    nothing = circuits.acdc(model, task, math.inf, metric=LogitDiff(), **QUIET)
    assert nothing.n_edges == 0
    corrupt = M.plain(model, task, task.corrupt)
    torch.testing.assert_close(M.raw(model, task, nothing)[0], corrupt, atol=1e-9, rtol=0)
    assert float(nothing.provenance["metric_circuit"]) == pytest.approx(float(corrupt.mean()), abs=1e-9)
    assert corrupt.abs().min() > 1e-3


@pytest.mark.parametrize("metric", [KL(), LogitDiff()])
def test_the_metric_of_the_circuit_is_what_a_run_of_it_gives(metric: Any) -> None:
    model, task = model_of("small"), M.task()
    found = circuits.acdc(model, task, 0.002, metric=metric, **QUIET)
    again = M.raw(model, task, found, metric=metric).mean()
    assert float(found.provenance["metric_circuit"]) == pytest.approx(float(again), abs=1e-9)
    assert abs(float(again)) > 1e-4


def test_one_branch_of_the_or_gate_is_kept() -> None:
    model = interp.load("or-gate", dtype="float64")
    task = or_gate_task(model, n=96)
    found = set(circuits.acdc(model, task, 1e-3, **QUIET).edges())
    branches = [set(branch) for branch in gates.OR_BRANCHES]
    assert sorted(branch <= found for branch in branches) == [False, True]
    assert sorted(bool(branch & found) for branch in branches) == [False, True]
    assert found - set.union(*branches) == {"m0->logits"}


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
@pytest.mark.parametrize("name", ["reverse", "xproportion", "induction", "and-gate"])
def test_a_hand_built_circuit_is_found(name: str, ablation: str) -> None:
    model = interp.load(name, dtype="float64")
    task = some_inputs(model, name, n=32)
    found = circuits.acdc(model, task, 1e-6, ablation=ablation, **QUIET)
    assert set(found.edges()) == set(truth(name, ablation))


def test_a_sweep_is_its_parts() -> None:
    model, task = model_of("small"), M.task()
    thresholds = [0.003, 0.01, 0.0005]
    sweep = circuits.acdc_sweep(model, task, thresholds, **QUIET)
    alone = [circuits.acdc(model, task, threshold, **QUIET) for threshold in thresholds]
    for one, other in zip(sweep, alone):
        assert one.edges() == other.edges()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-9)
    assert [c.provenance["threshold"] for c in sweep] == thresholds
    assert len({c.n_edges for c in sweep}) == 3


def test_memory_does_not_matter() -> None:
    """Prompts and rows in many small pieces."""
    model, task = model_of("small"), M.uneven()
    whole = circuits.acdc(model, task, 0.05, **QUIET)
    pieces = circuits.acdc(model, task, 0.05, memory=2**19, **QUIET)
    assert pieces.edges() == whole.edges()
    np.testing.assert_allclose(pieces.scores, whole.scores, atol=1e-9)
    assert whole.n_edges > 0


def test_the_order_is_fixed_by_the_graph() -> None:
    graph = Graph(1, 1)
    late = [graph.name(*edge) for edge in edge_order(graph, "late").tolist()]
    assert late == [
        *("m0->logits", "a0.h0->logits", "input->logits", "a0.h0->m0", "input->m0"),
        *("input->a0.h0<v>", "input->a0.h0<k>", "input->a0.h0<q>"),
    ]
    early = [graph.name(*edge) for edge in edge_order(graph, "early").tolist()]
    assert early[:5] == ["input->logits", "a0.h0->logits", "m0->logits", "input->m0", "a0.h0->m0"]


def test_a_reader_without_a_kept_edge_out_needs_no_run() -> None:
    """By hand: every edge into the logits is cut but the first head's, so the MLP's inputs are cut unseen."""
    search = Search(Graph(1, 2), "late", Rule(0.5), loss=0.0, size=4, limit=8)
    proposal = (
        search.propose()
    )  # m0->logits, a0.h1->logits, a0.h0->logits, input->logits, and the dead readers
    assert proposal.rows[:4] == [0, 1, 2, 3]
    assert set(proposal.rows[4:]) == {-1}
    search.take(
        proposal, [0.1, 0.2, 0.9, 1.0]
    )  # a0.h0 is kept, against the guess: the last row proves nothing
    assert (search.at, search.kept, search.loss) == (3, 1, 0.2)
    proposal = search.propose()
    names = [search.graph.name(*edge) for edge in search.order[3 : 3 + len(proposal.rows)].tolist()]
    without = [name for name, row in zip(names, proposal.rows) if row < 0]
    assert without[:3] == ["a0.h1->m0", "a0.h0->m0", "input->m0"]
    assert without[3:] == [f"input->a0.h1<{part}>" for part in "vkq"]
    assert [n for n in names if n not in without][:2] == ["input->logits", "input->a0.h0<v>"]


def test_a_tie_is_named() -> None:
    """A threshold that is exactly the growth at one edge: rounding could decide."""
    model, task = model_of("small"), M.task()
    found = circuits.acdc(model, task, 0.01, **QUIET)
    edge = circuits.trace(found)[0].edge
    growth = float(found.scores[found.graph.edge(edge)])
    tied = circuits.acdc(model, task, growth + 1e-8, **QUIET)
    assert tied.provenance["n_ties"] == 1
    assert tied.provenance["ties"] == edge
    assert growth > 1e-3


def test_what_it_says_of_itself_survives_a_file(tmp_path: Any) -> None:
    model, task = model_of("small"), M.task()
    for threshold in (0.005, math.inf):
        found = circuits.acdc(model, task, threshold, **QUIET)
        read = Circuit.load(found.save(tmp_path / "circuit.json"))
        assert read.edges() == found.edges()
        assert read.provenance["method"] == "acdc"
        assert circuits.trace(read)[0] == circuits.trace(found)[0]
    assert found.provenance["threshold"] == "inf"


def test_what_does_not_fit() -> None:
    model, task = model_of("small"), M.task()
    other = Circuit(Graph(1, 1), Graph(1, 1).allowed)
    refused: tuple = (
        ({"threshold": math.nan}, "threshold is nan; give a number"),
        ({"order": "random"}, "order 'random' is not one of late, early"),
        ({"guess": other}, "is a circuit of another model"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"ablation": "median"}, "ablation 'median' is not one of"),
    )
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            circuits.acdc(model, task, **{"threshold": 0.1, **QUIET, **given})
    with pytest.raises(ValueError, match="no threshold given"):
        circuits.acdc_sweep(model, task, [])
    with pytest.raises(ValueError, match="was not found by acdc"):
        circuits.trace(other)


def test_blocks_of_prompts_take_turns_in_the_memory_given() -> None:
    """More prompts than `memory` holds: the same circuit, and no more than the bound above the model."""
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=16, seed=0)
    circuits.run(model, task, Circuit(Graph.of(model), Graph.of(model).allowed), **QUIET)  # the trust check
    bound, whole, pieces = 2**21, [], []
    unbounded = held.peak(lambda: whole.append(circuits.acdc(model, task, 1.0, **QUIET)))
    bounded = held.peak(lambda: pieces.append(circuits.acdc(model, task, 1.0, memory=bound, **QUIET)))
    assert bounded <= 1.1 * bound < unbounded
    assert pieces[0].edges() == whole[0].edges() != []
    np.testing.assert_allclose(pieces[0].scores, whole[0].scores, atol=1e-5)
