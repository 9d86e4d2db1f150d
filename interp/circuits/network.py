"""A circuit as a networkx graph, for drawing and for paths."""

from __future__ import annotations

import networkx

from interp import places
from interp.circuits.circuit import Circuit

_KINDS = {"embed": "input", "z": "head", "mlp_out": "mlp", "logits": "logits"}


def network(circuit: Circuit) -> networkx.MultiDiGraph:
    """See `Circuit.to_networkx`."""
    graph = circuit.graph
    made = networkx.MultiDiGraph()
    made.graph.update({**circuit.provenance, "name": circuit.name})
    there = circuit.nodes()
    for node in there:
        made.add_node(node, **_facts(node, graph.n_layers))
    owners = [[graph.nodes[i] for i in row.nonzero().flatten().tolist()] for row in graph.owners]
    scores = circuit.scores if circuit.mask.ndim == 2 else None
    for writer, reader in circuit.kept.nonzero().tolist():
        name = graph.readers[reader]
        facts = {"name": graph.name(writer, reader), "part": name[-2] if name.endswith(">") else ""}
        if scores is not None:
            facts["score"] = float(scores[writer, reader])
        for node in owners[reader]:
            if node in there:
                made.add_edge(graph.writers[writer], node, key=name, **facts)
    return made


def _facts(node: str, n_layers: int) -> dict[str, str | int]:
    place = places.parse(node)
    end = n_layers if node == "logits" else -1
    return {"kind": _KINDS[place.site], "layer": end if place.layer is None else place.layer}
