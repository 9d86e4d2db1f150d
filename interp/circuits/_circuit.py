"""A circuit: some edges of a graph, perhaps with a score for every edge, and how it was found.

The mask is a tensor [writer, reader], or [position, writer, reader] for circuits that differ by position, or
[span, writer, reader] for those that differ by the task's named positions (`spans` has the names): an edge is
then kept at all positions of a span, wherever it stands in a prompt, and cut at positions of no span. An
edge outside the mask is cut: its reader sees what the writer writes in some other run (the ablation) instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb
from interp.circuits import _files
from interp.circuits._graph import Graph

if TYPE_CHECKING:
    import networkx
import networkx

from interp import places

Provenance = dict[str, str | int | float | bool]


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A set of edges of a graph. `circuit_a & circuit_b`, `|` and `-` keep no scores."""

    graph: Graph
    mask: Bool[Tensor, "*position writer reader"]
    scores: Float[Tensor, "..."] | None = None  # one for each entry of the mask; NaN: not scored
    provenance: Provenance = field(default_factory=dict)
    name: str = "circuit"

    def __post_init__(self) -> None:
        allowed = self.graph.allowed.to(self.mask.device)
        if self.mask.ndim not in (2, 3) or self.mask.shape[-2:] != allowed.shape:
            raise ValueError(
                f"the mask is {list(self.mask.shape)}, but the graph ({self.graph}) has "
                f"{allowed.shape[0]} writers and {allowed.shape[1]} readers."
            )
        if self.scores is not None and self.scores.shape != self.mask.shape:
            raise ValueError(
                f"the scores are {list(self.scores.shape)}, the mask is {list(self.mask.shape)}: "
                "give one score for each entry of the mask."
            )
        if self.spans and len(self.spans) != len(self.mask):
            raise ValueError(
                f"the mask has {len(self.mask)} spans and {len(self.spans)} names: {', '.join(self.spans)}."
            )
        for writer, reader in (self.mask & ~allowed).nonzero()[:1, -2:].tolist():
            self.graph.name(writer, reader)  # raises: there is no such edge
        object.__setattr__(self, "mask", self.mask.detach().clone())
        object.__setattr__(self, "scores", None if self.scores is None else self.scores.detach().clone())
        object.__setattr__(self, "provenance", dict(self.provenance))

    @classmethod
    @verb
    def from_edges(
        cls,
        graph: Graph,
        edges: Collection[str],
        *,
        provenance: Provenance | None = None,
        name: str = "circuit",
    ) -> Circuit:
        """The circuit of some edges, by name. Raises ValueError for an edge that the graph does not have."""
        mask = torch.zeros_like(graph.allowed)
        for edge in edges:
            mask[graph.edge(edge)] = True
        return cls(graph, mask, provenance=provenance or {}, name=name)

    @property
    def spans(self) -> tuple[str, ...]:
        """Names of the first axis of the mask, where it is the task's spans; else empty."""
        names = self.provenance.get("spans")
        return () if names is None or self.mask.ndim != 3 else tuple(json.loads(str(names)))

    @property
    def kept(self) -> Bool[Tensor, "writer reader"]:
        """The edges that are kept, at any position."""
        return self.mask.flatten(0, -3).any(0) if self.mask.ndim > 2 else self.mask

    @property
    def n_edges(self) -> int:
        """Edges that are kept, at any position."""
        return int(self.kept.sum())

    @property
    def n_edges_acdc(self) -> int:
        """Edges in ACDC's count: one more, inside the head, for each q, k and v that a kept edge enters."""
        inner = torch.tensor([reader.endswith(">") for reader in self.graph.readers])
        return self.n_edges + int((self.kept.any(0).cpu() & inner).sum())

    def edges(self) -> list[str]:
        """Names of the kept edges, by writer."""
        found = self.kept.nonzero().tolist()
        return [f"{self.graph.writers[writer]}->{self.graph.readers[reader]}" for writer, reader in found]

    def nodes(self) -> list[str]:
        """Nodes with a kept edge, in the order of the graph.

        A key or value that heads share counts for those of them that have another kept edge, or else for all.
        """
        owners, entered = self.graph.owners, self.kept.any(0).cpu()
        found = torch.zeros(len(self.graph.nodes), dtype=torch.bool)
        found[:-1] = self.kept.any(1).cpu()
        shared = owners.sum(1) > 1
        found |= owners[entered & ~shared].any(0)
        for heads in owners[entered & shared]:
            found |= heads & ~(found & heads).any()
        return [node for node, there in zip(self.graph.nodes, found.tolist()) if there]

    def heads(self) -> list[str]:
        """The heads among `nodes()`."""
        return [node for node in self.nodes() if node.startswith("a")]

    def __contains__(self, edge: str) -> bool:
        """Whether an edge is kept. Raises ValueError for an edge that the graph does not have."""
        return bool(self.kept[self.graph.edge(edge)])

    def __and__(self, other: Circuit) -> Circuit:
        return self._combined(other, "&", torch.logical_and)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combined(other, "|", torch.logical_or)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combined(other, "-", lambda ours, theirs: ours & ~theirs)

    def __repr__(self) -> str:
        return f"Circuit({self.name!r}, {self.n_edges:,} of {self.graph.n_edges:,} edges, {self.graph})"

    @verb
    def save(self, path: str | PathLike[str]) -> Path:
        """Write the circuit as JSON in the layout of EAP-IG and MIB, whole or not at all."""
        contents = _files.Contents(self.graph, self.mask, self.scores, self.provenance, self.name)
        return _files.write(contents, self.nodes(), Path(path))

    @classmethod
    @verb
    def load(cls, path: str | PathLike[str], graph: Graph | None = None) -> Circuit:
        """Read a circuit from JSON in the layout of EAP-IG and MIB.

        With `graph`, a circuit of another graph is refused, and keys and values that the file names head by
        head are put together where the graph shares them. Raises ValueError for anything but a circuit.
        """
        return cls(*_files.read(Path(path), graph))

    def to_networkx(self) -> networkx.MultiDiGraph:
        """A MultiDiGraph: nodes with `kind` and `layer`, edges by reader with `name`, `part` and `score`.

        The layer of `input` is -1, that of `logits` the number of layers. `part` is q, k, v, or "" for MLPs
        and logits. An edge into a shared key or value goes to every head of the circuit that uses it. Edges
        have a `score` if the circuit has scores and no positions.
        """
        return _network(self)

    def _combined(self, other: Circuit, sign: str, rule: Callable[[Tensor, Tensor], Tensor]) -> Circuit:
        if not isinstance(other, Circuit):
            raise ValueError(f"{self.name!r} and {shown(other)} cannot be combined. Give a Circuit.")
        if self.graph != other.graph:
            raise ValueError(
                f"{self.name!r} and {other.name!r} are circuits of different graphs: {self.graph}; "
                f"{other.graph}. Only circuits of the same graph can be combined."
            )
        if self.mask.shape != other.mask.shape:
            raise ValueError(
                f"{self.name!r} and {other.name!r} have masks of {list(self.mask.shape)} and "
                f"{list(other.mask.shape)}. Combine circuits with the same positions."
            )
        if self.spans != other.spans:
            raise ValueError(
                f"{self.name!r} and {other.name!r} are by different spans: {self.spans or 'none'}; "
                f"{other.spans or 'none'}. Combine circuits with the same spans."
            )
        mask = rule(self.mask, other.mask.to(self.mask.device))
        made: Provenance = {"method": "combined", "operation": sign, "left": self.name, "right": other.name}
        made |= {"spans": self.provenance["spans"]} if self.spans else {}
        return Circuit(self.graph, mask, provenance=made, name=f"({self.name} {sign} {other.name})")


_KINDS = {"embed": "input", "z": "head", "mlp_out": "mlp", "logits": "logits"}


def _network(circuit: Circuit) -> networkx.MultiDiGraph:
    """See `Circuit.to_networkx`."""
    import networkx

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
