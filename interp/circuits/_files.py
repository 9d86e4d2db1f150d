"""Circuits as JSON, in the layout that EAP-IG and the MIB benchmark read and write.

    {"cfg":   {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": false, "d_model": 768},
     "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, ...},
     "edges": {"input->a0.h0<q>": {"score": 0.25, "in_graph": true}, ...}}

The first EAP-IG wrote `"nodes": {"input": true, ...}`, and null for a score that it did not have; both are
read. The edges alone say what the circuit is; scores of nodes are not kept, and a circuit of single neurons
is refused. Keys and values are named head by head, also where heads share them. We add to
`cfg` what the layout cannot say (`attn_only`, `n_key_value_heads`) and a block `interp` with name,
provenance and type of the scores; other programs pass over both. A circuit without scores is written with
scores of 0, which EAP-IG needs, and the block says so.

Those projects run a model with grouped-query attention as if every head had a key and a value of its own.
To cut u→k of a shared key is to cut u→k of all heads that share it, and a score that is linear in the
gradient is the sum of theirs. So apart means: the same mask for each head, and an equal part of the score.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits._graph import Graph
from interp.files import write_text

_LAYOUT = "the layout of EAP-IG and MIB has cfg, nodes and edges"
_SMALL = 10**7  # entries of a mask that any file may ask for
_TYPES = {"float32": torch.float32, "float64": torch.float64}


class Contents(NamedTuple):
    """The parts of a circuit, as `Circuit` takes them."""

    graph: Graph
    mask: Bool[Tensor, "*position writer reader"]
    scores: Float[Tensor, "..."] | None
    provenance: dict[str, Any]
    name: str


def write(circuit: Contents, nodes: list[str], path: Path) -> Path:
    """Write a circuit and its nodes, whole or not at all."""
    if circuit.mask.ndim > 2:
        raise ValueError(
            f"{circuit.name!r} has a mask for each of {len(circuit.mask)} positions, and {_LAYOUT}, "
            "without positions. Save the circuit of each position."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file, ending in .json.")
    data = _as_json(circuit, nodes)
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the provenance of {circuit.name!r} holds what JSON cannot: {error}.") from None
    return write_text(path, text)


def read(path: Path, graph: Graph | None = None) -> Contents:
    """Read a circuit; see `Circuit.load`."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a .json file of a circuit.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except ValueError as error:
        raise ValueError(f"{path} is cut short or is not JSON ({error}). Save the circuit again.") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply to be a circuit: {_LAYOUT}.") from None
    try:
        return _matched(_from_json(data, path), graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _as_json(circuit: Contents, nodes: list[str]) -> dict[str, Any]:
    scores = None if circuit.scores is None else circuit.scores.cpu()
    flat = apart(circuit._replace(mask=circuit.mask.cpu(), scores=scores))
    edges = flat.graph.allowed.nonzero().tolist()
    values = [0.0] * len(edges) if flat.scores is None else flat.scores[flat.graph.allowed].tolist()
    if any(map(math.isinf, values)):
        raise ValueError(f"{circuit.name!r} has infinite scores, which JSON cannot hold. Use NaN for none.")
    there = set(nodes)
    kept = flat.mask[flat.graph.allowed].tolist()
    return {
        "cfg": _header(circuit.graph),
        "nodes": {node: {"in_graph": node in there} for node in flat.graph.nodes},
        "edges": {
            flat.graph.name(*edge): {"score": None if math.isnan(score) else score, "in_graph": keep}
            for edge, score, keep in zip(edges, values, kept)
        },
        "interp": {
            "name": circuit.name,
            "provenance": circuit.provenance,
            "scores": None if scores is None else str(scores.dtype).removeprefix("torch."),
        },
    }


def _header(graph: Graph) -> dict[str, int | bool]:
    width = {} if graph.d_model is None else {"d_model": graph.d_model}
    own = {"attn_only": graph.attn_only, "n_key_value_heads": graph.n_key_value_heads}
    sizes = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel}
    return {**sizes, **width, **own}


def _from_json(data: Any, path: Path) -> Contents:
    parts = data if isinstance(data, dict) else {}
    if not all(isinstance(parts.get(part), dict) for part in ("cfg", "nodes", "edges")):
        found = ", ".join(parts) or type(data).__name__
        raise ValueError(f"this is another kind of JSON: {_LAYOUT}, each an object; the file has {found}.")
    shared = _graph(data["cfg"])
    _check_size(shared, len(data["edges"]))
    graph = replace(shared, n_key_value_heads=shared.n_heads)
    _check_nodes(data, graph)
    mask = torch.zeros_like(graph.allowed)
    scores = torch.full(mask.shape, math.nan, dtype=torch.float64)
    for name, facts in data["edges"].items():
        edge = graph.edge(name)
        mask[edge], scores[edge] = _edge(name, facts)
    ours = data["interp"] if isinstance(data.get("interp"), dict) else None
    block = ours or {"scores": "float32", "provenance": {"file": path.name}, "name": path.stem}
    _check_block(block)
    kind = _TYPES.get(str(block.get("scores")))
    scored = kind is not None and not bool(scores.isnan().all())
    circuit = Contents(graph, mask, scores if scored else None, block["provenance"], block["name"])
    if ours and shared != graph:
        circuit = together(circuit, shared.n_key_value_heads)
    return circuit._replace(scores=circuit.scores.to(kind)) if circuit.scores is not None else circuit


def _graph(cfg: dict[str, Any]) -> Graph:
    sizes = {key: cfg.get(key) for key in ("n_layers", "n_heads")}
    optional = {"n_key_value_heads": 0, "d_model": None}
    sizes |= {key: value for key, value in cfg.items() if key in optional and value is not None}
    switches = {"attn_only": cfg.get("attn_only", False), "parallel": cfg.get("parallel_attn_mlp", False)}
    if {type(size) for size in sizes.values()} != {int} or {type(on) for on in switches.values()} != {bool}:
        raise ValueError(
            "cfg must give n_layers and n_heads as whole numbers and parallel_attn_mlp as true or false; "
            f"it gives {json.dumps(cfg)[:200]}."
        )
    return Graph(**sizes, **switches)


def _check_size(graph: Graph, listed: int) -> None:
    """A file lists the edges of its graph, or a good part; a graph far beyond would only fill memory."""
    writers = 1 + graph.n_layers * (graph.n_heads + 1)
    possible = writers * (1 + graph.n_layers * (3 * graph.n_heads + 1))
    if possible > max(_SMALL, 1000 * listed):
        raise ValueError(
            f"cfg describes a model of {graph.n_layers:,} layers of {graph.n_heads:,} heads, and the file "
            f"lists {listed:,} edges: they do not belong together. Correct n_layers and n_heads."
        )


def _check_block(block: dict[str, Any]) -> None:
    provenance, name = block.get("provenance"), block.get("name")
    if not isinstance(name, str):
        raise ValueError(f"the block interp names the circuit {json.dumps(name)[:80]}; give a text.")
    plain = isinstance(provenance, dict) and all(
        isinstance(value, str | int | float) for value in provenance.values()
    )
    if not plain:
        kind = type(provenance).__name__
        raise ValueError(
            f"the provenance is a {kind}, or holds lists or objects; it must be an object of texts and "
            "numbers."
        )


def _check_nodes(data: dict[str, Any], graph: Graph) -> None:
    unknown = [node for node in data["nodes"] if node not in graph.nodes]
    if unknown:
        raise ValueError(f"node {unknown[0]!r} is not in the graph that cfg describes ({graph}).")
    lists = [facts.get("neurons", []) for facts in data["nodes"].values() if isinstance(facts, dict)]
    lists += data["neurons"].values() if isinstance(data.get("neurons"), dict) else []
    if not all(isinstance(neurons, list) and all(neurons) for neurons in lists):
        raise ValueError("this is a circuit of single neurons; only whole heads and MLPs can be read.")


def _edge(name: str, facts: Any) -> tuple[bool, float]:
    keep = facts.get("in_graph") if isinstance(facts, dict) else None
    score = facts.get("score") if isinstance(facts, dict) else None
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not isinstance(keep, bool) or not (number or score is None):
        wanted = '{"score": number or null, "in_graph": true or false}'
        raise ValueError(f"edge {name!r} is {json.dumps(facts)[:80]}; it must be {wanted}.")
    try:
        value = math.nan if score is None else float(score)
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise ValueError(f"the score of edge {name!r} is beyond what a number can hold. Give null for none.")
    return keep, value


def _matched(circuit: Contents, graph: Graph | None) -> Contents:
    """The circuit on the graph asked for, or ValueError if it is one of another model."""
    if graph is None:
        return circuit
    own = circuit.graph
    if own != graph and own == replace(graph, n_key_value_heads=graph.n_heads):
        circuit = together(circuit, graph.n_key_value_heads)
        own = circuit.graph
    widths = {own.d_model, graph.d_model} - {None}
    if own != graph or len(widths) > 1:
        raise ValueError(
            f"this is a circuit of another model: {_described(own)}; the graph given has {_described(graph)}."
        )
    return circuit._replace(graph=graph)


def _described(graph: Graph) -> str:
    return str(graph) if graph.d_model is None else f"{graph}, d_model {graph.d_model}"


def apart(circuit: Contents) -> Contents:
    """The circuit with a key and a value for each head. Scores become float64: a float32 comes back whole."""
    graph = circuit.graph
    if graph.group == 1:
        return circuit
    which = _shared_by(graph)
    sizes = torch.bincount(which)[which]
    scores = None if circuit.scores is None else circuit.scores.double()[..., which] / sizes
    single = replace(graph, n_key_value_heads=graph.n_heads)
    return circuit._replace(graph=single, mask=circuit.mask[..., which], scores=scores)


def together(circuit: Contents, n_key_value_heads: int) -> Contents:
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
    return circuit._replace(graph=graph, mask=count > 0, scores=scores)


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
