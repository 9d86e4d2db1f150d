"""Circuits: sets of edges, their nodes, and networkx."""

from __future__ import annotations

import re

import networkx
import pytest
import torch
from drawn import EDGES, GRAPHS, PLAIN, drawn, small_circuit

from interp.circuits import Circuit, Graph


def test_edges_are_those_that_were_given() -> None:
    circuit = small_circuit()
    assert sorted(circuit.edges()) == sorted(EDGES)
    assert circuit.n_edges == 5
    assert repr(circuit) == "Circuit('five', 5 of 262 edges, 3 layers of 4 heads)"


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_operators_are_those_of_sets(graph: Graph) -> None:
    a, b = drawn(graph, 0, 0.5, torch.float32), drawn(graph, 1, 0.5)
    ours, theirs = set(a.edges()), set(b.edges())
    assert ours & theirs
    assert ours - theirs
    assert theirs - ours
    assert set((a & b).edges()) == ours & theirs
    assert set((a | b).edges()) == ours | theirs
    assert set((a - b).edges()) == ours - theirs
    assert (a - b).scores is None
    assert (a - b).name == "(drawn-0 - drawn-1)"
    assert (a - b).provenance == {
        "method": "combined",
        "operation": "-",
        "left": "drawn-0",
        "right": "drawn-1",
    }


def test_circuits_of_different_graphs_do_not_combine() -> None:
    for rule in (Circuit.__and__, Circuit.__or__, Circuit.__sub__):
        with pytest.raises(ValueError, match=r"different graphs: 3 layers of 4 heads; .*, parallel"):
            rule(drawn(PLAIN), drawn(Graph(3, 4, parallel=True)))


def test_contains_reads_every_style_and_refuses_what_does_not_exist() -> None:
    circuit = small_circuit()
    assert "A0.1->A2.3.K" in circuit
    assert "a0.h1->a2.h3<q>" not in circuit
    with pytest.raises(ValueError, match="writes after"):
        _ = "m2->m0" in circuit


def test_a_mask_must_fit_its_graph() -> None:
    with pytest.raises(
        ValueError, match=r"mask is \[16, 39\], but the graph .* has 16 writers and 40 readers"
    ):
        Circuit(PLAIN, PLAIN.allowed[:, 1:])
    with pytest.raises(ValueError, match=r"no edge 'a0\.h0->a0\.h0<q>'"):
        Circuit(PLAIN, torch.ones_like(PLAIN.allowed))
    with pytest.raises(ValueError, match=r"scores are \[2, 16, 40\], the mask is \[16, 40\]"):
        Circuit(PLAIN, PLAIN.allowed, torch.zeros(2, 16, 40))


def test_a_circuit_does_not_change_with_the_tensors_it_was_made_of() -> None:
    mask, scores, made = PLAIN.allowed, torch.ones(16, 40), {"method": "all"}
    circuit = Circuit(PLAIN, mask, scores, made)
    mask.zero_()
    scores.zero_()
    made["method"] = "none"
    assert circuit.n_edges == PLAIN.n_edges == 262
    assert circuit.scores is not None
    assert circuit.scores.min() == 1
    assert circuit.provenance == {"method": "all"}


def test_an_edge_kept_at_one_position_is_an_edge() -> None:
    a, b = drawn(PLAIN, 0), drawn(PLAIN, 1)
    by_position = Circuit(PLAIN, torch.stack((a.mask, b.mask)))
    assert set(by_position.edges()) == set(a.edges()) | set(b.edges())
    assert by_position.n_edges == (a | b).n_edges
    assert by_position.nodes() == (a | b).nodes()
    with pytest.raises(ValueError, match=r"masks of \[2, 16, 40\] and \[16, 40\]"):
        _ = by_position & a
    with pytest.raises(ValueError, match=r"no edge 'a0\.h0->a0\.h0<q>'"):
        Circuit(PLAIN, torch.stack((a.mask, torch.ones_like(a.mask))))


def test_nodes_are_the_ends_of_edges() -> None:
    assert small_circuit().nodes() == ["input", "a0.h1", "m1", "a2.h3", "logits"]
    assert small_circuit().heads() == ["a0.h1", "a2.h3"]
    for seed in range(5):
        circuit = drawn(PLAIN, seed, 0.02)
        ends = {re.sub("<.>", "", end) for edge in circuit.edges() for end in edge.split("->")}
        assert circuit.nodes() == [node for node in PLAIN.nodes if node in ends]
        assert 0 < len(ends) < len(PLAIN.nodes)


@pytest.mark.parametrize(
    ("edges", "heads"),
    [
        (["input->a1.h1<k>"], ["a1.h2", "a1.h3"]),  # nothing says which
        (["input->a1.h1<k>", "a1.h3->logits"], ["a1.h3"]),
        (["input->a1.h1<k>", "input->a1.h2<q>"], ["a1.h2"]),
        (["input->a1.h1<k>", "a1.h0->logits"], ["a1.h0", "a1.h2", "a1.h3"]),
        (["input->a1.h1<k>", "input->a1.h1<v>"], ["a1.h2", "a1.h3"]),
    ],
)
def test_a_shared_key_counts_for_the_heads_that_use_it(edges: list[str], heads: list[str]) -> None:
    circuit = Circuit.from_edges(Graph(2, 4, 2), edges)
    assert circuit.heads() == heads
    assert {node for _, node in circuit.to_networkx().in_edges("input")} == set()
    reached = {node for _, node, key in circuit.to_networkx().edges(keys=True) if key == "a1.h1<k>"}
    assert reached == set(heads) - {"a1.h0"}


def test_acdc_counts_an_edge_inside_each_head_for_each_input() -> None:
    assert Circuit(Graph(12, 12), Graph(12, 12).allowed).n_edges_acdc == 32_923
    assert Circuit(Graph(4, 8, attn_only=True), Graph(4, 8, attn_only=True).allowed).n_edges_acdc == 1_377
    assert small_circuit().n_edges_acdc == 5 + 2  # a0.h1<v> and a2.h3<k>
    twice = Circuit.from_edges(PLAIN, [*EDGES, "input->a2.h3<k>"])
    assert twice.n_edges_acdc == 6 + 2


def test_networkx_has_the_same_edges_nodes_and_scores() -> None:
    circuit = drawn(PLAIN, 3, 0.2, torch.float64)
    made = circuit.to_networkx()
    assert list(made) == circuit.nodes()
    assert sorted(name for *_, name in made.edges(data="name")) == sorted(circuit.edges())
    assert networkx.is_directed_acyclic_graph(made)
    assert circuit.scores is not None
    for writer, reader, facts in made.edges(data=True):
        assert facts["name"] == f"{writer}->{reader}" + (f"<{facts['part']}>" if facts["part"] else "")
        assert facts["score"] == circuit.scores[PLAIN.edge(facts["name"])] != 0
    assert made.graph == {"method": "drawn", "seed": 3, "name": "drawn-3"}
    five = small_circuit().to_networkx()
    assert dict(five.nodes(data="layer")) == {"input": -1, "a0.h1": 0, "m1": 1, "a2.h3": 2, "logits": 3}
    kinds = {"input": "input", "a0.h1": "head", "m1": "mlp", "a2.h3": "head", "logits": "logits"}
    assert dict(five.nodes(data="kind")) == kinds
    assert [facts for *_, facts in five.edges(data="score")] == [None] * 5
