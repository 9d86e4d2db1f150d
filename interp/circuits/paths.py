"""Paths of a circuit: the edges that lie on some way from the input to the logits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.graph import Graph


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
