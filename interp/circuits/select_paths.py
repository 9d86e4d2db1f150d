"""Which edges of a circuit with positions lie on a path from the input to the logits.

An edge carries information at its reader's position; from keys and values a head carries it to
its own position and all later ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.graph import Graph


def on_paths_by_pos(
    graph: Graph, kept: Bool[Tensor, "pos writer reader"]
) -> Bool[Tensor, "pos writer reader"]:
    """The edges that are reached from the input and reach the logits, in a mask of kept edges."""
    return kept & _reached(graph, kept)[..., None] & _useful(graph, kept)[:, None]


def _reached(graph: Graph, kept: Tensor) -> Bool[Tensor, "pos writer"]:
    """Writers that kept edges connect to the input. They stand in an order in which they write."""
    owners, moves = graph.owners, _moves(graph)
    out = torch.zeros(kept.shape[:2], dtype=torch.bool)
    out[:, 0] = True
    for writer in range(1, len(graph.writers)):
        inputs = owners[:, writer]
        entered = (kept[:, :, inputs] & out[..., None]).any(1)  # [pos, reader]
        entered[:, moves[inputs]] = _later(entered[:, moves[inputs]])
        out[:, writer] = entered.any(1)
    return out


def _useful(graph: Graph, kept: Tensor) -> Bool[Tensor, "pos reader"]:
    """Readers that kept edges connect to the logits."""
    owners, moves = graph.owners, _moves(graph)
    out = torch.zeros(kept.shape[0], kept.shape[2], dtype=torch.bool)
    out[:, -1] = True
    for writer in range(len(graph.writers) - 1, 0, -1):
        inputs = owners[:, writer]
        leaves = (kept[:, writer] & out).any(1)[:, None].repeat(1, int(inputs.sum()))  # [pos, reader]
        leaves[:, moves[inputs]] = _later(leaves[:, moves[inputs]].flip(0)).flip(0)
        out[:, inputs] |= leaves
    return out


def _moves(graph: Graph) -> Bool[Tensor, "reader"]:
    """Keys and values: what they read at a position is used at later ones too."""
    return torch.tensor([name.endswith(("<k>", "<v>")) for name in graph.readers])


def _later(seen: Bool[Tensor, "pos reader"]) -> Bool[Tensor, "pos reader"]:
    return seen.int().cummax(0).values.bool() if seen.numel() else seen
