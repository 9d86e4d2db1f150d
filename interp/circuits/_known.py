"""Known circuits: those that papers found in public models, and those of models with hand-written weights.

A published circuit is data (`data/circuits/<name>.json`: groups of nodes and what its rules take) and a
rule (`RULES`) that expands it to edges. It is what its paper and ACDC's repository state, not a
measurement, and no claim that every edge matters. A hand-built model has one circuit for each ablation,
true by construction (`interp/models/handmade/`).

The papers give groups of heads and say in words who reads whom. Which edges that means was stated by Conmy
et al. 2023 (arXiv:2304.14997) in the code of ACDC; these are the same rules, over our graph. ACDC also
counts edges inside heads (`Circuit.n_edges_acdc`).

Every rule joins sets of nodes by all edges that exist, which are those where the writer comes first.

The names need no torch; circuits load it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interp._verbs import verb
from interp.files import data_dir
from interp.models import handmade
from interp.places import hint

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from interp.circuits._circuit import Circuit, Provenance
    from interp.circuits._graph import Graph

PUBLISHED = ("ioi-gpt2", "greater-than-gpt2", "docstring-attn-only-4l")


@verb
def known_names() -> tuple[str, ...]:
    """Names that `known` takes: circuits of public models, by papers, and those of hand-built models.

    Example:
        >>> interp.circuits.known_names()[0]
        'ioi-gpt2'
    """
    return (*PUBLISHED, *handmade.NAMES)


@verb
def known(name: str, ablation: str = "resample") -> Circuit:
    """A known circuit, by name; `known_names()` lists them. Needs no weights.

    `ablation` is for hand-built models: resample, zero or mean.
    Raises ValueError for an unknown name or ablation.

    Example:
        >>> interp.circuits.known("ioi-gpt2").n_edges
        963
    """
    if name in PUBLISHED:
        return _published(name, ablation)
    if name in handmade.NAMES:
        return _handmade(name, ablation)
    names = known_names()
    raise ValueError(f"{name!r} is no known circuit{hint(name, names)} Known: {', '.join(names)}.")


def facts(name: str) -> dict[str, Any]:
    """What the file of a published circuit says: model, graph, groups, rules, paper, source, licence."""
    path = data_dir() / "circuits" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _published(name: str, ablation: str) -> Circuit:
    if ablation != "resample":
        raise ValueError(
            f"ablation is {ablation!r}, but {name!r} is one circuit, not one for each ablation. "
            "Leave ablation out."
        )
    from interp.circuits._circuit import Circuit
    from interp.circuits._graph import Graph

    stated = facts(name)
    graph = Graph(**stated["graph"])
    made = {"method": "published", **{key: stated[key] for key in ("model", "paper", "source")}}
    return Circuit(graph, RULES[name](graph, stated), provenance=made, name=name)


def _handmade(name: str, ablation: str) -> Circuit:
    from interp.circuits._circuit import Circuit
    from interp.circuits._graph import Graph

    edges = handmade.truth(name, ablation)
    made: Provenance = {"method": "by construction", "model": name, "ablation": ablation}
    shape: dict[str, Any] = handmade.SHAPES[name]
    return Circuit.from_edges(Graph(**shape), edges, provenance=made, name=name)


Facts = dict[str, Any]


def ioi(graph: Graph, facts: Facts) -> Bool[Tensor, "writer reader"]:
    """Indirect object identification in GPT-2 small, Wang et al. 2022.

    1. `input`, all MLPs and `logits` are joined with one another: the paper leaves the MLPs as they are.
    2. All MLPs are joined with all heads of the circuit, both ways.
    3. `connections`: the writers of one group reach the named inputs (q, k, v) of another; of `input` and
       `logits` likewise. Nothing else reaches a head.
    """
    groups = facts["groups"]
    heads, mlps = _joined(groups, groups), _mlps(graph)
    mask = graph.between(["input", *mlps], [*mlps, "logits"])
    mask |= graph.between(mlps, heads) | graph.between(heads, mlps)
    return mask | connected(graph, facts)


def greater_than(graph: Graph, facts: Facts) -> Bool[Tensor, "writer reader"]:
    """Greater-than in GPT-2 small, Hanna et al. 2023.

    1. `connections` between groups, all inputs; `input` and `logits` likewise.
    2. The MLPs of a group of MLPs are joined with one another.
    3. The paper leaves the queries of the middle heads whole (`whole_queries`). To that end every MLP before
       such a head reaches its query, and the MLPs before the last of these heads are joined with one another.
    """
    groups = facts["groups"]
    mask = connected(graph, facts)
    for nodes in groups.values():
        mlps = [node for node in nodes if node in _mlps(graph)]
        mask |= graph.between(mlps, mlps)
    heads = groups[facts["whole_queries"]]
    before = _mlps(graph)[: max(map(_layer, heads))]
    return mask | graph.between(before, before) | graph.between(_mlps(graph), heads, "q")


def connected(graph: Graph, facts: Facts) -> Bool[Tensor, "writer reader"]:
    """Only `connections`: [writers, readers, inputs], groups or single nodes.

    This is the whole rule of the docstring circuit, Heimersheim and Janiak 2023, stated edge by edge.
    """
    mask = graph.between([], [])
    for writers, readers, parts in facts["connections"]:
        mask |= graph.between(_joined(facts["groups"], writers), _joined(facts["groups"], readers), parts)
    return mask


def _joined(groups: dict[str, list[str]], wanted: Any) -> list[str]:
    """The nodes of some groups; a name that is no group is a node."""
    return [node for name in wanted for node in groups.get(name, [name])]


def _mlps(graph: Graph) -> list[str]:
    return [node for node in graph.writers if node.startswith("m")]


def _layer(head: str) -> int:
    return int(head[1:].split(".")[0])


RULES: dict[str, Callable[[Graph, Facts], Bool[Tensor, "writer reader"]]] = {
    "ioi-gpt2": ioi,
    "greater-than-gpt2": greater_than,
    "docstring-attn-only-4l": connected,
}
