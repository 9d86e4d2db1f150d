"""Circuits to test with: five edges of a small graph, and random ones."""

from __future__ import annotations

import math

import torch

from interp.circuits import Circuit, Graph

PLAIN = Graph(3, 4, d_model=24)
GRAPHS = [
    PLAIN,
    Graph(3, 4, parallel=True),
    Graph(3, 4, attn_only=True, d_model=8),
    Graph(2, 4, 2),
    Graph(2, 6, 2, attn_only=True),
    Graph(2, 3, 1, parallel=True),
]
EDGES = ["input->a0.h1<v>", "a0.h1->a2.h3<k>", "a0.h1->m1", "m1->logits", "a2.h3->logits"]


def drawn(graph: Graph, seed: int = 0, keep: float = 0.3, dtype: torch.dtype | None = None) -> Circuit:
    """Random edges, with random scores if a type is given."""
    generator = torch.Generator().manual_seed(seed)
    mask = graph.allowed & (torch.rand(graph.allowed.shape, generator=generator) < keep)
    noise = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    scores = None if dtype is None else noise.to(dtype).where(graph.allowed, torch.tensor(math.nan).to(dtype))
    return Circuit(graph, mask, scores, {"method": "drawn", "seed": seed}, f"drawn-{seed}")


def small_circuit(graph: Graph = PLAIN) -> Circuit:
    return Circuit.from_edges(graph, EDGES, name="five")
