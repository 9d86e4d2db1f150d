"""Circuits as JSON, in the layout that EAP-IG and the MIB benchmark read and write.

    {"cfg":   {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": false, "d_model": 768},
     "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, ...},
     "edges": {"input->a0.h0<q>": {"score": 0.25, "in_graph": true}, ...}}

The first EAP-IG wrote `"nodes": {"input": true, ...}`, and null for a score that it did not have; both are
read. The edges alone say what the circuit is; scores of nodes are not kept, and a circuit of single neurons
is refused. Keys and values are named head by head, also where heads share them (`sharing.py`). We add to
`cfg` what the layout cannot say (`attn_only`, `n_key_value_heads`) and a block `interp` with name,
provenance and type of the scores; other programs pass over both. A circuit without scores is written with
scores of 0, which EAP-IG needs, and the block says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph
from interp.circuits.sharing import apart, together
from interp.files import write_text

_LAYOUT = "the layout of EAP-IG and MIB has cfg, nodes and edges"
_TYPES = {"float32": torch.float32, "float64": torch.float64}


def write(circuit: Circuit, path: Path) -> Path:
    """Write a circuit, whole or not at all."""
    if circuit.mask.ndim > 2:
        raise ValueError(
            f"{circuit.name!r} has a mask for each of {len(circuit.mask)} positions, and {_LAYOUT}, "
            "without positions. Save the circuit of each position."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file, ending in .json.")
    data = _as_json(circuit)
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the provenance of {circuit.name!r} holds what JSON cannot: {error}.") from None
    return write_text(path, text)


def read(path: Path, graph: Graph | None = None) -> Circuit:
    """Read a circuit; see `Circuit.load`."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a .json file of a circuit.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is cut short or is not JSON ({error}). Save the circuit again.") from None
    try:
        return _matched(_from_json(data, path), graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _as_json(circuit: Circuit) -> dict[str, Any]:
    scores = None if circuit.scores is None else circuit.scores.cpu()
    flat = apart(replace(circuit, mask=circuit.mask.cpu(), scores=scores, provenance={}))
    edges = flat.graph.allowed.nonzero().tolist()
    values = [0.0] * len(edges) if flat.scores is None else flat.scores[flat.graph.allowed].tolist()
    if any(map(math.isinf, values)):
        raise ValueError(f"{circuit.name!r} has infinite scores, which JSON cannot hold. Use NaN for none.")
    there = set(circuit.nodes())
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


def _from_json(data: Any, path: Path) -> Circuit:
    parts = data if isinstance(data, dict) else {}
    if not all(isinstance(parts.get(part), dict) for part in ("cfg", "nodes", "edges")):
        found = ", ".join(parts) or type(data).__name__
        raise ValueError(f"this is another kind of JSON: {_LAYOUT}, each an object; the file has {found}.")
    shared = _graph(data["cfg"])
    graph = replace(shared, n_key_value_heads=shared.n_heads)
    _check_nodes(data, graph)
    mask = torch.zeros_like(graph.allowed)
    scores = torch.full(mask.shape, math.nan, dtype=torch.float64)
    for name, facts in data["edges"].items():
        edge = graph.edge(name)
        mask[edge], scores[edge] = _edge(name, facts)
    ours = data["interp"] if isinstance(data.get("interp"), dict) else None
    block = ours or {"scores": "float32", "provenance": {"file": path.name}, "name": path.stem}
    kind = _TYPES.get(str(block.get("scores")))
    scored = kind is not None and not bool(scores.isnan().all())
    circuit = Circuit(graph, mask, scores if scored else None, block["provenance"], block["name"])
    if ours and shared != graph:
        circuit = together(circuit, shared.n_key_value_heads)
    return replace(circuit, scores=circuit.scores.to(kind)) if circuit.scores is not None else circuit


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


def _check_nodes(data: dict[str, Any], graph: Graph) -> None:
    unknown = [node for node in data["nodes"] if node not in graph.nodes]
    if unknown:
        raise ValueError(f"node {unknown[0]!r} is not in the graph that cfg describes ({graph}).")
    lists = [facts.get("neurons", []) for facts in data["nodes"].values() if isinstance(facts, dict)]
    lists += data["neurons"].values() if isinstance(data.get("neurons"), dict) else []
    if not all(all(neurons) for neurons in lists):
        raise ValueError("this is a circuit of single neurons; only whole heads and MLPs can be read.")


def _edge(name: str, facts: Any) -> tuple[bool, float]:
    keep = facts.get("in_graph") if isinstance(facts, dict) else None
    score = facts.get("score") if isinstance(facts, dict) else None
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not isinstance(keep, bool) or not (number or score is None):
        wanted = '{"score": number or null, "in_graph": true or false}'
        raise ValueError(f"edge {name!r} is {json.dumps(facts)[:80]}; it must be {wanted}.")
    return keep, math.nan if score is None else float(score)


def _matched(circuit: Circuit, graph: Graph | None) -> Circuit:
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
    return replace(circuit, graph=graph)


def _described(graph: Graph) -> str:
    return str(graph) if graph.d_model is None else f"{graph}, d_model {graph.d_model}"
