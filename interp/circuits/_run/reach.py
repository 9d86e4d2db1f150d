"""What has to be computed: what a cut can reach, and what can reach the logits.

1. Forward: a reader changes if one of its edges differs from the circuit that the batch starts from, or if a
   kept edge comes from a writer that changes; a node changes if one of its readers does.
2. Backward: a node is needed at the answer's position alone if its kept edges lead to readers needed there
   alone; at all positions if a key or a value that is needed reads it; or not at all.

Where something is computed is decided for a batch together: an edge is kept if any circuit keeps it. For
which circuits is decided one by one (`rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.circuits._graph import Spans

NONE, FINAL, WHOLE = 0, 1, 2  # not needed; at the answer's position; at all positions


@dataclass(frozen=True, eq=False)
class Reach:
    """For each reader and writer: where it has to be computed (NONE, FINAL, WHOLE), 0 if nothing changes."""

    readers: np.ndarray
    writers: np.ndarray
    rows: np.ndarray  # [circuit, reader]: whether the reader changes in the circuit

    def of(self, readers: slice) -> np.ndarray:
        """The circuits in which some of the readers change."""
        return np.flatnonzero(self.rows[:, readers].any(1))


def reach(spans: Spans, kept: np.ndarray, differs: np.ndarray, everywhere: bool, lazy: bool) -> Reach:
    """`kept` and `differs` are [circuit, writer, reader]."""
    if not lazy:
        every = np.ones((len(kept), kept.shape[2]), bool)
        return Reach(WHOLE * every[0], np.full(kept.shape[1], WHOLE), every)
    need_readers, need_writers = _needed(spans, np.asarray(kept.any(0)), everywhere)
    readers, writers = _changed(spans, kept, differs)
    return Reach(need_readers * readers.any(0), need_writers * writers.any(0), readers)


def _changed(spans: Spans, kept: np.ndarray, differs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By circuit: [circuit, reader] and [circuit, writer]."""
    graph = spans.graph
    readers, writers = np.asarray(differs.any(1)), np.zeros(kept.shape[:2], bool)

    def arrive(where: slice) -> None:
        some = np.flatnonzero(writers.any(0))
        readers[:, where] |= (kept[:, some, where] & writers[:, some, None]).any(1)

    for layer in range(graph.n_layers):
        arrive(spans.attention(layer))
        writers[:, spans.heads(layer)] = spans.by_head(layer, readers).any(0)
        if not graph.attn_only:
            mlp = spans.mlp_reader(layer)
            arrive(slice(mlp, mlp + 1))
            writers[:, spans.mlp(layer)] = readers[:, mlp]
    arrive(slice(spans.logits, spans.logits + 1))
    return readers, writers


def _needed(spans: Spans, kept: np.ndarray, everywhere: bool) -> tuple[np.ndarray, np.ndarray]:
    graph = spans.graph
    readers, writers = np.zeros(kept.shape[1], np.int64), np.zeros(len(kept), np.int64)
    readers[spans.logits] = WHOLE if everywhere else FINAL

    def leave(where: slice) -> np.ndarray:
        return (kept[where] * readers).max(1)

    for layer in reversed(range(graph.n_layers)):
        if not graph.attn_only:
            mlp = spans.mlp(layer)
            writers[mlp] = leave(slice(mlp, mlp + 1))[0]
            readers[spans.mlp_reader(layer)] = writers[mlp]
        heads = writers[spans.heads(layer)] = leave(spans.heads(layer))
        readers[spans.part(layer, "q")] = heads
        shared = WHOLE * (heads > 0).reshape(-1, graph.group).any(1)
        readers[spans.part(layer, "k")] = readers[spans.part(layer, "v")] = shared
    writers[0] = leave(slice(0, 1))[0]
    return readers, writers
