"""Known circuits: those that papers found in public models, and those of models with hand-written weights.

A published circuit is data (`data/circuits/<name>.json`: groups of nodes and what its rules take) and a
rule in `published.py` that expands it to edges. It is what its paper and ACDC's repository state, not a
measurement, and no claim that every edge matters. A hand-built model has one circuit for each ablation,
true by construction (`interp/models/handmade/`).
"""

from __future__ import annotations

import json
from typing import Any

from interp.circuits import published
from interp.circuits.catalogue import PUBLISHED, known_names
from interp.circuits.circuit import Circuit, Provenance
from interp.circuits.graph import Graph
from interp.files import data_dir
from interp.models import handmade
from interp.places import hint


def known(name: str, ablation: str | None = None) -> Circuit:
    """A known circuit, by name; `known_names()` lists them. Needs no weights.

    `ablation` is for hand-built models: resample (default), zero or mean.
    Raises ValueError for an unknown name or ablation.
    """
    if name in PUBLISHED:
        return _published(name, ablation)
    if name in handmade.NAMES:
        return _handmade(name, "resample" if ablation is None else ablation)
    names = known_names()
    raise ValueError(f"{name!r} is no known circuit{hint(name, names)} Known: {', '.join(names)}.")


def facts(name: str) -> dict[str, Any]:
    """What the file of a published circuit says: model, graph, groups, rules, paper, source, licence."""
    path = data_dir() / "circuits" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _published(name: str, ablation: str | None) -> Circuit:
    if ablation is not None:
        raise ValueError(
            f"ablation is {ablation!r}, but {name!r} is one circuit, not one for each ablation. "
            "Leave ablation out."
        )
    stated = facts(name)
    graph = Graph(**stated["graph"])
    made = {"method": "published", **{key: stated[key] for key in ("model", "paper", "source")}}
    return Circuit(graph, published.RULES[name](graph, stated), provenance=made, name=name)


def _handmade(name: str, ablation: str) -> Circuit:
    edges = handmade.truth(name, ablation)
    made: Provenance = {"method": "by construction", "model": name, "ablation": ablation}
    shape: dict[str, Any] = handmade.SHAPES[name]
    return Circuit.from_edges(Graph(**shape), edges, provenance=made, name=name)
