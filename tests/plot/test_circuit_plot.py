"""Pictures of circuits: every edge is there once, nodes stand by layer, many edges are drawn together."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import xarray as xr

from interp import plot
from interp.circuits import Circuit, Graph
from interp.plot._circuit import Edge, curved, label, places, row

GRAPH = Graph(3, 4)
EDGES = ["input->a0.h1<v>", "a0.h1->a2.h0<q>", "a0.h1->m1", "m1->a2.h0<k>", "a2.h0->logits", "m1->logits"]


def scored() -> Circuit:
    circuit = Circuit.from_edges(GRAPH, EDGES, name="small")
    scores = torch.full(circuit.mask.shape, float("nan"), dtype=torch.float64)
    for i, edge in enumerate(EDGES):
        scores[GRAPH.edge(edge)] = (i + 1.0) * (-1) ** (edge == "m1->logits")
    return Circuit(GRAPH, circuit.mask, scores, name="small")


def texts(figure) -> list[str]:
    return [text for trace in figure.data for text in np.atleast_1d(trace.hovertext) if text is not None]


def boxes(figure) -> set[str]:
    """The nodes, which have a border and a ground that hides the lines below."""
    assert all(note.bgcolor and note.bordercolor for note in figure.layout.annotations)
    return {note.text for note in figure.layout.annotations}


def test_every_edge_is_drawn_and_told() -> None:
    figure = plot.circuit(scored())
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert sum(sum(x is None for x in trace.x) for trace in lines) == len(EDGES)
    told = {text for text in texts(figure) if "→" in text}
    assert told == {
        "input → L0H1.v<br>score +1", "L0H1 → L2H0.q<br>score +2", "L0H1 → MLP1<br>score +3",
        "MLP1 → L2H0.k<br>score +4", "L2H0 → logits<br>score +5", "MLP1 → logits<br>score −6",
    }  # fmt: skip
    assert boxes(figure) == {"input", "L0H1", "MLP1", "L2H0", "logits"}
    assert {trace.name for trace in lines} == {"query", "key", "value", "MLP, logits"}
    assert [trace.line.dash for trace in lines].count("dot") == 1
    assert len({trace.line.width for trace in lines}) > 1
    assert {trace.name for trace in plot.circuit(scored(), colour="sign").data if trace.mode == "lines"} == {
        "helps",
        "hurts",
    }


def test_nodes_stand_by_layer() -> None:
    at = places(Edge(*edge.partition("<")[0].split("->"), "", 1.0, "") for edge in EDGES)
    heights = {node: y for node, (_, y) in at.items()}
    order = sorted(heights, key=lambda node: row(node))
    assert [heights[node] for node in order] == sorted(heights.values())
    assert len(set(at.values())) == len(at)
    assert at["m1"][0] > max(x for node, (x, _) in at.items() if node != "m1")


def test_lines_end_at_their_nodes() -> None:
    x, y = curved((0.0, 0.0), (2.0, 3.0), 0.7)
    assert (x[0], y[0]) == (0.0, 0.0)
    assert (x[-1], y[-1]) == pytest.approx((2.0, 3.0))
    assert all(np.diff(y) > 0)


def test_many_edges_are_drawn_by_layer() -> None:
    whole = Circuit(GRAPH, GRAPH.allowed, name="whole")
    figure = plot.circuit(whole)
    assert GRAPH.n_edges > 200
    assert boxes(figure) == {
        "input",
        "logits",
        *(f"L{i} heads" for i in range(3)),
        *(f"MLP{i}" for i in range(3)),
    }
    told = {text for text in texts(figure) if "→" in text}
    assert "L0 heads → L1 heads<br>48 edges" in told
    counts = [int(text.split("<br>")[1].split()[0]) for text in told]
    assert sum(counts) == GRAPH.n_edges
    assert "together" in figure.layout.title.subtitle.text
    assert "together" not in plot.circuit(whole, most=10_000).layout.title.subtitle.text


def test_labels_and_bad_input() -> None:
    assert [label(node) for node in ("a9.h6", "m5", "input", "a3.all")] == [
        "L9H6",
        "MLP5",
        "input",
        "L3 heads",
    ]
    with pytest.raises(ValueError, match="not a node's name"):
        row("x7")
    with pytest.raises(ValueError, match="no edge to draw"):
        plot.circuit(scored() - scored())
    with pytest.raises(ValueError, match="colour is 'kind'"):
        plot.circuit(scored(), colour="kind")


def test_scores_are_told_to_become_a_circuit_first() -> None:
    scores = xr.Dataset({"value": (("prompt", "writer", "reader"), np.zeros((1, 2, 2)))})
    with pytest.raises(ValueError, match=r"not a Dataset\. These are scores of edges: .* circuits\.top"):
        inspect.unwrap(plot.circuit)(scores)
    with pytest.raises(ValueError, match=r"not a list\. Give the Circuit"):
        inspect.unwrap(plot.circuit)([1, 2])


def test_the_picture_says_how_the_circuit_was_found() -> None:
    facts = {"method": "acdc", "model": "toy", "task": "ioi", "direction": "noise", "n_prompts": 8}
    facts |= {"metric": "kl", "ablation": "zero"}
    circuit = Circuit.from_edges(GRAPH, EDGES, provenance=facts)
    words = plot.circuit(circuit).layout.title.subtitle.text.replace("<br>", " ")
    for part in ("found by acdc", "toy on ioi", "noise", "8 prompts", "kl", "zero ablation", "6 of"):
        assert part in words
