"""A graph over features in the format of circuit-tracer, whose page opens it.

Nodes: a feature is `{layer}_{feature}_{pos}`, its number in the page the Cantor pair of both; an error
`0_{layer}_{pos}`; a token `E_{id}_{pos}`; the logit `{n_layers + 1}_{id}_{pos}`, where the metric reads. An
error of layer 5 and feature 5 of layer 0 at one position would have one id there: such graphs are refused,
never merged.

`influence` is theirs: incoming weights of each node, by absolute value, sum to 1; then (I − A)⁻¹ − I, read at
the logits. Ameisen et al. 2025 ("Circuit tracing"); its files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from interp._verbs import verb
from interp.files import write_text
from interp.sae._graph import ALL, EMBED, LOGITS, FeatureGraph, Node
from interp.sae._site import ERROR

_KINDS = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    EMBED: "embedding",
    LOGITS: "logit",
}


@verb
def to_tracer(
    graph: FeatureGraph,
    path: str | Path,
    *,
    n_layers: int,
    answer: tuple[int, str],
    probability: float = 1.0,
    scan: str = "none",
    slug: str = "interp",
    node_threshold: float = 0.8,
) -> Path:
    """Write a graph of one prompt as circuit-tracer's JSON; returns the path.

    graph: by position, of a task of one prompt, one dictionary a layer. n_layers: of the model. answer: token
    id and text of the logit that the metric reads; probability: of it. scan, slug, node_threshold: what the
    page shows (scan names the pages of features). Position 0 is the beginning token's.

    Raises ValueError for a graph without positions or of several prompts, two dictionaries in a layer, a
    model of fewer layers, shares outside of 0 to 1, and where an error and a feature would have one id.

    Example:
        >>> import json, tempfile, torch
        >>> from interp import sae
        >>> model = interp.load("tiny-ioi")
        >>> both = torch.cat((torch.eye(64), -torch.eye(64)))
        >>> d = sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place="L1.resid_pre")
        >>> task = interp.tasks.ioi(model, n=2)[:1]
        >>> found = sae.circuit(model, task, [d], nodes=5, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sae.to_tracer(found, f"{folder}/graph.json", n_layers=3, answer=(7, "Mary"))
        ...     sorted(json.loads(path.read_text()))
        ['links', 'metadata', 'nodes', 'qParams']
    """
    if not graph.ids:
        raise ValueError("the graph is of several prompts, and circuit-tracer's of one; make it of task[:1].")
    if any(node.pos == ALL and node.site != LOGITS for node in graph.nodes):
        raise ValueError("the graph has nodes without positions; make it with by='pos'.")
    for word, share in (("probability", probability), ("node_threshold", node_threshold)):
        if not 0 <= share <= 1:
            raise ValueError(f"{word} is {share}; give a share from 0 to 1.")
    layers = [_layer(site) for site in graph.sites]
    if n_layers <= max(layers):
        raise ValueError(f"n_layers is {n_layers}, and the graph has a site in layer {max(layers)}.")
    if len(set(layers)) < len(layers):
        raise ValueError(
            f"the graph has two dictionaries in a layer ({', '.join(graph.sites)}); the format knows one."
        )
    last = len(graph.ids) - 1
    every = [_node(node, graph, n_layers, answer, probability) for node in graph.nodes]
    ids = [each["node_id"] for each in every]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        pair = [node.name for node, own in zip(graph.nodes, ids) if own == twice]
        raise ValueError(
            f"{pair[0]} and {pair[1]} would both be {twice!r} in circuit-tracer's format. Leave one out."
        )
    for each, share in zip(every, influence(graph)):
        each["influence"] = float(share)
    links = [{"source": ids[a], "target": ids[b], "weight": weight} for a, b, weight in graph.edges]
    metadata = {
        "slug": slug, "scan": scan, "transcoder_list": list(graph.sites),
        "prompt_tokens": list(graph.tokens[: last + 1]),
        "prompt": " ".join(token.strip() for token in graph.tokens[: last + 1]),
        "node_threshold": node_threshold,
        "schema_version": 1,
    }  # fmt: skip
    question = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    data = {"metadata": metadata, "qParams": question, "nodes": every, "links": links}
    return write_text(Path(path), json.dumps(data, allow_nan=False))


def influence(graph: FeatureGraph) -> np.ndarray:
    """How much of the logits goes through each node: the sum over all paths of normalised weights, [node]."""
    n = len(graph.nodes)
    A = np.zeros((n, n))  # [source, target]
    for a, b, weight in graph.edges:
        A[a, b] = abs(weight)
    total = A.sum(0, keepdims=True)
    A = np.divide(A, total, out=np.zeros_like(A), where=total > 0)
    paths = np.linalg.inv(np.eye(n) - A) - np.eye(n)
    read = np.array([node.site == LOGITS for node in graph.nodes])
    return paths[:, read].sum(1) + read


def _layer(site: str) -> int:
    match = re.match(r"L(\d+)", site)
    if match is None:
        raise ValueError(f"{site!r} has no layer.")
    return int(match[1])


def _node(
    node: Node, graph: FeatureGraph, n_layers: int, answer: tuple[int, str], probability: float
) -> dict[str, Any]:
    feature, pos, kind, words = node.feature, node.pos, "feature", node.name
    if node.site == LOGITS:
        pos = len(graph.ids) - 1 if graph.end == ALL else graph.end
        kind, layer, feature = LOGITS, str(n_layers + 1), answer[0]
        name, mark, words = f"{layer}_{feature}_{pos}", f"L_{feature}-{pos}", f'Output "{answer[1]}"'
    elif node.site == EMBED:
        token = graph.ids[pos] if pos < len(graph.ids) else -1
        kind, layer, feature, name, mark = EMBED, "E", pos, f"E_{token}_{pos}", f"E_{token}-{pos}"
        words = f'Emb: "{graph.tokens[pos].strip()}"'
    elif node.feature == ERROR:
        kind, layer = "error", str(_layer(node.site))
        name, mark = f"0_{layer}_{pos}", f"{layer}_{pos}-0"
    else:
        number = _layer(node.site)
        layer, name, mark = str(number), f"{number}_{feature}_{pos}", f"{number}_{feature}-0"
        feature = (number + feature) * (number + feature + 1) // 2 + feature
    return {
        "node_id": name, "feature": feature, "layer": layer, "ctx_idx": pos, "feature_type": _KINDS[kind],
        "token_prob": probability if kind == LOGITS else 0.0, "is_target_logit": kind == LOGITS, "run_idx": 0,
        "reverse_ctx_idx": 0, "jsNodeId": mark, "clerp": words, "influence": 0.0,
        "activation": node.activation if kind == "feature" else None,
    }  # fmt: skip
