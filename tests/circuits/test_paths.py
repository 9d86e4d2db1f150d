"""Paths from the input to the logits, against networkx."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

from interp.circuits import Graph
from interp.circuits._judge.curves import random_mask
from interp.circuits._paths import on_paths, random_paths

GRAPHS = [Graph(3, 2), Graph(2, 4, 2), Graph(2, 3, attn_only=True), Graph(3, 2, parallel=True)]


def slow(graph: Graph, mask: torch.Tensor) -> torch.Tensor:
    """Edge by edge: its writer is reached from the input, and a node it enters reaches the logits."""
    net = nx.DiGraph()
    net.add_nodes_from(graph.nodes)
    enters = {
        r: [graph.nodes[n] for n in graph.owners[r].nonzero().flatten()] for r in range(len(graph.readers))
    }
    pairs = mask.nonzero().tolist()
    net.add_edges_from((graph.writers[w], node) for w, r in pairs for node in enters[r])
    start, end = nx.descendants(net, "input") | {"input"}, nx.ancestors(net, "logits") | {"logits"}
    out = torch.zeros_like(mask)
    for w, r in pairs:
        out[w, r] = graph.writers[w] in start and any(node in end for node in enters[r])
    return out


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_on_paths(graph: Graph) -> None:
    sizes = set()
    for seed in range(20):
        mask = graph.allowed & (torch.rand(graph.allowed.shape, generator=torch.manual_seed(seed)) < 0.2)
        found = on_paths(graph, mask)
        assert torch.equal(found, slow(graph, mask))
        assert torch.equal(on_paths(graph, found), found)
        sizes.add(int(found.sum()))
    assert len(sizes) > 5
    assert torch.equal(on_paths(graph, graph.allowed), graph.allowed)


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_every_edge_of_random_paths_is_on_a_path(graph: Graph) -> None:
    rng = np.random.default_rng(0)
    longest = 2 * graph.n_layers + 1
    for n in (1, 5, 12):
        mask = random_paths(graph, n, rng)
        assert n <= int(mask.sum()) < n + longest
        assert torch.equal(on_paths(graph, mask), mask)
        assert not (mask & ~graph.allowed).any()
        more = random_paths(graph, int(mask.sum()) + 1, rng, start=mask)
        assert bool((more >= mask).all())
        assert int(more.sum()) > int(mask.sum())


def test_uniform_draws_have_their_size_and_reach_every_edge() -> None:
    graph, rng = GRAPHS[0], np.random.default_rng(0)
    masks = [random_mask(graph, 7, "uniform", rng) for _ in range(150)]
    assert {int(mask.sum()) for mask in masks} == {7}
    assert torch.equal(torch.stack(masks).any(0), graph.allowed)
