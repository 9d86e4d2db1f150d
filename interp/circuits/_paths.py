"""Paths of a circuit: the edges that lie on some way from the input to the logits.

With positions, an edge carries information at its reader's position; from keys and values a head carries it
to its own position and all later ones. Spans have no order of their own, so that there a head may carry it to
any span.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits._graph import Graph

_Later = Callable[[Tensor], Tensor]


def on_paths(graph: Graph, mask: Bool[Tensor, "writer reader"]) -> Bool[Tensor, "writer reader"]:
    """The mask without the edges that are on no path from `input` to `logits`."""
    step = _steps(graph, mask)
    forward = _reached(step, start=0)
    backward = _reached(step.T, start=len(graph.nodes) - 1)
    into = graph.owners.to(mask.device).float() @ torch.from_numpy(backward).to(mask.device).float() > 0
    return mask & torch.from_numpy(forward[:-1]).to(mask.device)[:, None] & into[None]


def random_paths(
    graph: Graph, n_edges: int, rng: np.random.Generator, start: Bool[Tensor, "writer reader"] | None = None
) -> Bool[Tensor, "writer reader"]:
    """Random paths from `input` to `logits`, added to `start` (or nothing) until there are `n_edges` edges.

    The last path is kept whole, so there can be more by the length of a path.
    """
    mask = torch.zeros_like(graph.allowed) if start is None else start.clone()
    allowed, owners = graph.allowed.numpy(), graph.owners.numpy()
    while int(mask.sum()) < n_edges:
        node = len(graph.nodes) - 1
        while node:
            reader = rng.choice(np.flatnonzero(owners[:, node]))
            writer = rng.choice(np.flatnonzero(allowed[:, reader]))
            mask[writer, reader] = True
            node = int(writer)
    return mask


def _steps(graph: Graph, mask: Bool[Tensor, "writer reader"]) -> np.ndarray:
    """Whether an edge leads from a writer into a node: [writer + logits, node]."""
    found = (mask.cpu().float() @ graph.owners.float() > 0).numpy()
    return np.vstack([found, np.zeros((1, found.shape[1]), bool)])


def _reached(step: np.ndarray, start: int) -> np.ndarray:
    found = np.zeros(len(step), bool)
    found[start] = True
    while True:
        more = found | step[found].any(0)
        if (more == found).all():
            return found
        found = more


def on_paths_by_pos(
    graph: Graph, kept: Bool[Tensor, "pos writer reader"], ordered: bool = True
) -> Bool[Tensor, "pos writer reader"]:
    """The edges that are reached from the input and reach the logits, in a mask of kept edges.

    ordered: positions are one after the other; spans are not.
    """
    later = _later if ordered else _anywhere
    return kept & _reached_by_pos(graph, kept, later)[..., None] & _useful(graph, kept, later)[:, None]


def _reached_by_pos(graph: Graph, kept: Tensor, later: _Later) -> Bool[Tensor, "pos writer"]:
    """Writers that kept edges connect to the input. They stand in an order in which they write."""
    owners, moves = graph.owners, _moves(graph)
    out = torch.zeros(kept.shape[:2], dtype=torch.bool)
    out[:, 0] = True
    for writer in range(1, len(graph.writers)):
        inputs = owners[:, writer]
        entered = (kept[:, :, inputs] & out[..., None]).any(1)  # [pos, reader]
        entered[:, moves[inputs]] = later(entered[:, moves[inputs]])
        out[:, writer] = entered.any(1)
    return out


def _useful(graph: Graph, kept: Tensor, later: _Later) -> Bool[Tensor, "pos reader"]:
    """Readers that kept edges connect to the logits."""
    owners, moves = graph.owners, _moves(graph)
    out = torch.zeros(kept.shape[0], kept.shape[2], dtype=torch.bool)
    out[:, -1] = True
    for writer in range(len(graph.writers) - 1, 0, -1):
        inputs = owners[:, writer]
        leaves = (kept[:, writer] & out).any(1)[:, None].repeat(1, int(inputs.sum()))  # [pos, reader]
        leaves[:, moves[inputs]] = later(leaves[:, moves[inputs]].flip(0)).flip(0)
        out[:, inputs] |= leaves
    return out


def _moves(graph: Graph) -> Bool[Tensor, "reader"]:
    """Keys and values: what they read at a position is used at later ones too."""
    return torch.tensor([name.endswith(("<k>", "<v>")) for name in graph.readers])


def _anywhere(seen: Bool[Tensor, "pos reader"]) -> Bool[Tensor, "pos reader"]:
    return seen.any(0, keepdim=True).expand_as(seen)


def _later(seen: Bool[Tensor, "pos reader"]) -> Bool[Tensor, "pos reader"]:
    return seen.int().cummax(0).values.bool() if seen.numel() else seen
