"""Keys and values that heads share, named head by head as EAP-IG and MIB do, and back.

Those projects run a model with grouped-query attention as if every head had a key and a value of its own.
To cut u→k of a shared key is to cut u→k of all heads that share it, and a score that is linear in the
gradient is the sum of theirs. So apart means: the same mask for each head, and an equal part of the score.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph


def apart(circuit: Circuit) -> Circuit:
    """The circuit with a key and a value for each head. Scores become float64: a float32 comes back whole."""
    graph = circuit.graph
    if graph.group == 1:
        return circuit
    which = _shared_by(graph)
    sizes = torch.bincount(which)[which]
    scores = None if circuit.scores is None else circuit.scores.double()[..., which] / sizes
    single = replace(graph, n_key_value_heads=graph.n_heads)
    return replace(circuit, graph=single, mask=circuit.mask[..., which], scores=scores)


def together(circuit: Circuit, n_key_value_heads: int) -> Circuit:
    """The circuit with shared keys and values. Raises ValueError if heads that share one do not agree."""
    apart_graph = circuit.graph
    graph = replace(apart_graph, n_key_value_heads=n_key_value_heads)
    which = _shared_by(graph)
    sizes = torch.bincount(which)
    count = _summed(circuit.mask.int(), which, len(sizes))
    partly = ((count > 0) & (count < sizes)).nonzero()
    if len(partly):
        writer, reader = partly[0, -2:].tolist()
        names = [apart_graph.name(writer, i) for i in (which == reader).nonzero().flatten().tolist()]
        raise ValueError(
            f"{graph.group} heads share a key and a value, so the edges {', '.join(names)} are one edge; "
            "but the circuit keeps only some of them. Keep all or none."
        )
    scores = None if circuit.scores is None else _summed(circuit.scores, which, len(sizes))
    return replace(circuit, graph=graph, mask=count > 0, scores=scores)


def _summed(values: Tensor, which: Int[Tensor, "reader"], n_readers: int) -> Tensor:
    total = torch.zeros(*values.shape[:-1], n_readers, dtype=values.dtype)
    return total.index_add(-1, which, values)


def _shared_by(graph: Graph) -> Int[Tensor, "reader"]:
    """For each reader of the graph with keys and values apart, the reader of `graph` that it is part of."""
    per_head = torch.arange(graph.n_heads)
    shared = graph.n_heads + per_head // graph.group
    block = torch.cat((per_head, shared, graph.n_key_value_heads + shared))
    size = graph.n_heads + 2 * graph.n_key_value_heads
    if not graph.attn_only:
        block, size = torch.cat((block, torch.tensor([size]))), size + 1
    blocks = [layer * size + block for layer in range(graph.n_layers)]
    return torch.cat((*blocks, torch.tensor([graph.n_layers * size])))
