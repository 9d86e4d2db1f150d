"""Pictures of circuits: every edge is there once, nodes stand by layer, many edges are drawn together."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import plot
from interp.circuits import Circuit, Graph
from interp.plot._layout import Edge, label, places, routes, row

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
    assert sum(int(np.isnan(trace.x).sum()) for trace in lines) == len(EDGES)
    told = {text for text in texts(figure) if "→" in text}
    assert told == {
        "input → L0H1.v<br>score +1", "L0H1 → L2H0.q<br>score +2", "L0H1 → MLP1<br>score +3",
        "MLP1 → L2H0.k<br>score +4", "L2H0 → logits<br>score +5", "MLP1 → logits<br>score −6",
    }  # fmt: skip
    assert boxes(figure) == {"input", "L0H1", "MLP1", "L2H0", "logits"}
    assert {(trace.name, trace.line.color, trace.line.dash) for trace in lines} == {
        ("helps", "#2166ac", "solid"),
        ("hurts", "#b2182b", "6px,4px"),
    }
    assert len({trace.line.width for trace in lines}) > 1
    parts = [trace for trace in plot.circuit(scored(), colour="part").data if trace.mode == "lines"]
    assert {trace.name for trace in parts} == {"query", "key", "value", "MLP, logits"}
    assert [trace.line.dash for trace in parts].count("6px,4px") == 1
    assert figure.layout.yaxis.ticktext == ("layer 0", "layer 1", "layer 2")
    bare = plot.circuit(Circuit.from_edges(GRAPH, EDGES))
    assert {trace.name for trace in bare.data if trace.mode == "lines"} == {"edges"}


def test_nodes_stand_by_layer() -> None:
    at = places(Edge(*edge.partition("<")[0].split("->"), "", 1.0, "") for edge in EDGES)
    heights = {node: y for node, (_, y) in at.items()}
    order = sorted(heights, key=lambda node: row(node))
    assert [heights[node] for node in order] == sorted(heights.values())
    assert len(set(at.values())) == len(at)
    assert at["m1"][0] > max(x for node, (x, _) in at.items() if node != "m1")


def chosen(n_edges: int, n_layers: int, n_heads: int) -> list[Edge]:
    graph = Graph(n_layers, n_heads)
    pairs = graph.allowed.nonzero().numpy()
    rows = np.random.default_rng(0).permutation(len(pairs))[:n_edges]
    names = [graph.name(*pairs[i].tolist()) for i in rows]
    sides = [name.partition("->")[::2] for name in names]
    return [Edge(a, b.partition("<")[0], b[-2] if b.endswith(">") else "", 1.0, "") for a, b in sides]


@pytest.mark.parametrize(("n_edges", "n_layers", "n_heads"), [(40, 3, 4), (200, 12, 12), (150, 2, 32)])
def test_no_line_crosses_the_words_of_another_node(n_edges: int, n_layers: int, n_heads: int) -> None:
    edges = chosen(n_edges, n_layers, n_heads)
    at = places(edges)
    widths = {node: 0.05 * len(label(node)) + 0.1 for node in at}
    height = 0.25
    for edge, way in zip(edges, routes(edges, at, widths, height)):
        (x0, y0), (x1, y1) = at[edge.source], at[edge.target]
        assert way[0].tolist() == pytest.approx([x0, y0 + height])
        assert abs(way[-1, 0] - x1) < widths[edge.target]
        assert way[-1, 1] == pytest.approx(y1 - height)
        assert all(np.diff(way[:, 1]) >= 0)
        ys = np.arange(y0, y1, 0.02)  # finer than the points, as the line is drawn
        xs = np.interp(ys, way[:, 1], way[:, 0])
        for node in set(at) - {edge.source, edge.target}:
            x, y = at[node]
            inside = (np.abs(ys - y) < height) & (np.abs(xs - x) < widths[node])
            assert not inside.any(), (edge, node)


def test_a_wide_layer_has_several_rows() -> None:
    at = places(chosen(150, 2, 32))
    counts = np.unique([y for _, y in at.values()], return_counts=True)[1]
    assert counts.max() <= 11


def test_scores_give_intervals() -> None:
    model = interp.load("tiny-ioi")
    scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=8), progress=False)
    circuit = interp.circuits.top(scores, 12)
    found = interp.stats.bootstrap(scores.sel(writer="m2", reader="logits"), level=0.9)
    assert "m2->logits" in circuit
    (text,) = {
        text for text in texts(plot.circuit(circuit, scores=scores, level=0.9)) if "MLP2 → logits" in text
    }
    low, high = (f"{float(found[end]):+.4g}".replace("-", "−") for end in ("low", "high"))
    assert text.endswith(f"<br>90 % interval {low} to {high}")
    with pytest.raises(ValueError, match="they are of another graph"):
        plot.circuit(Circuit.from_edges(Graph(5, 4), ["a4.h0->logits"]), scores=scores)
    with pytest.raises(ValueError, match="with writer and reader"):
        plot.circuit(circuit, scores=found)


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
