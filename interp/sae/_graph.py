"""A graph over features: nodes at sites and positions, the errors among them, and edges to each other.

Nodes are features of dictionaries ("L2.resid_pre.F7@5"), each dictionary's error ("L2.resid_pre.error@5"),
the embedding of a position ("embed@5") and "logits". Without positions a node is a feature at all of them.
Scores and weights are in the unit of the metric; positive helps. Kept as JSON, never as a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.files import write_text
from interp.sae._reading import read_json
from interp.sae._site import ERROR

EMBED, LOGITS = "embed", "logits"  # sites of a graph that no dictionary has
ALL = -1  # the position of a node at all positions
_FORMAT = "interp feature graph 1"


@dataclass(frozen=True)
class Node:
    """site: of a dictionary, "embed" or "logits". feature: its number, -1 for the error (and for both
    others). pos: -1 for all. score: its effect. activation: its mean contribution in the clean run (of an
    error its mean length)."""

    site: str
    feature: int
    pos: int
    score: float
    activation: float = 0.0

    @property
    def name(self) -> str:
        at = "" if self.pos == ALL else f"@{self.pos}"
        if self.site in (EMBED, LOGITS):
            return self.site + at
        return f"{self.site}.{'error' if self.feature == ERROR else f'F{self.feature}'}{at}"

    @property
    def is_feature(self) -> bool:
        return self.feature != ERROR


@dataclass(frozen=True, eq=False)
class FeatureGraph:
    """Nodes, and edges (source, target, weight) by number of node. Made by `interp.sae.circuit`.

    sites: of the dictionaries, in the order of the pass. tokens: labels of positions. ids: token ids of the
    prompt, where there is one; end: the position whose logits the metric reads there (the last of several).
    provenance: how it was made.

    Raises ValueError for edges between nodes that it does not have, two nodes of one name, and numbers that
    are not finite.
    """

    sites: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int, float], ...]
    tokens: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    end: int = ALL
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        names = [node.name for node in self.nodes]
        if len(set(names)) < len(names):
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is in the graph twice.")
        known = {*self.sites, EMBED, LOGITS}
        if other := next((node for node in self.nodes if node.site not in known), None):
            raise ValueError(
                f"{other.name!r} lies at no site of the graph, which has {', '.join(self.sites)}."
            )
        if not ALL <= self.end < max(len(self.ids), 1):
            raise ValueError(f"end is {self.end}; the prompt of the graph has {len(self.ids)} tokens.")
        if outside := [e for e in self.edges if not all(0 <= end < len(names) for end in e[:2])]:
            raise ValueError(
                f"edge {outside[0]} is between nodes that are not there; there are {len(names)}."
            )
        values = [*(node.score for node in self.nodes), *(weight for *_, weight in self.edges)]
        if not np.isfinite(values).all():
            raise ValueError("the graph has scores or weights that are not finite.")

    def __repr__(self) -> str:
        n = sum(node.is_feature for node in self.nodes)
        return f"FeatureGraph({' '.join(self.sites)}: {n} features, {len(self.edges)} edges)"

    @property
    def features(self) -> tuple[Node, ...]:
        """The nodes that are features, largest |score| first."""
        return tuple(sorted((n for n in self.nodes if n.is_feature), key=lambda n: -abs(n.score)))

    @property
    def error_share(self) -> float:
        """What share of all effects, by absolute value, lies in nodes of errors; NaN without effects."""
        of = lambda kept: sum(abs(n.score) for n in kept)  # noqa: E731
        errors = of(n for n in self.nodes if n.feature == ERROR and n.site in self.sites)
        total = errors + of(self.features)
        return errors / total if total else float("nan")

    def weight(self, source: str, target: str) -> float:
        """Weight of an edge by the names of its nodes; 0 where there is none."""
        names = {node.name: number for number, node in enumerate(self.nodes)}
        ends = names[source], names[target]
        return next((weight for a, b, weight in self.edges if (a, b) == ends), 0.0)

    def top(self, n: int) -> FeatureGraph:
        """The n features of largest |score|, with all errors, embeddings and the logits, and their edges."""
        best = set(self.features[:n])
        return self._kept([node in best or not node.is_feature for node in self.nodes])

    def _kept(self, kept: Sequence[bool]) -> FeatureGraph:
        number = {old: new for new, old in enumerate(i for i, keep in enumerate(kept) if keep)}
        edges = tuple((number[a], number[b], w) for a, b, w in self.edges if a in number and b in number)
        return replace(self, nodes=tuple(n for n, keep in zip(self.nodes, kept) if keep), edges=edges)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all."""
        out = {
            "format": _FORMAT, "sites": list(self.sites), "tokens": list(self.tokens), "ids": list(self.ids),
            "end": self.end,
            "nodes": [[n.site, n.feature, n.pos, n.score, n.activation] for n in self.nodes],
            "edges": [list(edge) for edge in self.edges], "provenance": dict(self.provenance or {}),
        }  # fmt: skip
        return write_text(Path(path), json.dumps(out, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> FeatureGraph:
        """Read it. Raises ValueError for a file that is something else, or damaged."""
        data = read_json(Path(path))
        if data.get("format") != _FORMAT:
            raise ValueError(
                f"{path} is no feature graph of this program; its format is {data.get('format')!r}."
            )
        try:
            nodes = tuple(Node(str(s), int(f), int(p), float(v), float(a)) for s, f, p, v, a in data["nodes"])
            edges = tuple((int(a), int(b), float(w)) for a, b, w in data["edges"])
            tokens, ids = tuple(map(str, data["tokens"])), tuple(map(int, data["ids"]))
            sites, end, about = tuple(map(str, data["sites"])), int(data["end"]), dict(data["provenance"])
            return cls(sites, nodes, edges, tokens, ids, end, about)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {type(error).__name__} {error}.") from None
