"""Do two circuits share more than chance? Overlap of edges, heads and nodes (circuit reuse across tasks).

Merullo et al. 2023 (arXiv:2310.08744) found the circuits of indirect objects and coloured objects to share
most of their heads.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import hypergeom

from interp.circuits.circuit import Circuit

KINDS = ("edges", "nodes", "heads")


def compare(a: Circuit, b: Circuit) -> xr.Dataset:
    """Overlap of two circuits of one graph. No forward pass.

    Returns a Dataset by `kind` (edges, nodes, heads): the counts `a`, `b`, `both`, `total` (in the graph);
    `jaccard` (both / either), `share_of_a`, `share_of_b`; `expected`, what two independent draws of these
    sizes would share, and `p`, the chance that they share at least as many (hypergeometric). Attributes:
    shared_edges and shared_heads, the names.
    Raises ValueError for circuits of different graphs.
    """
    if a.graph != b.graph:
        raise ValueError(
            f"{a.name!r} and {b.name!r} are circuits of different graphs: {a.graph}; {b.graph}. Only "
            "circuits of the same graph share edges."
        )
    sets = {kind: (_members(a, kind), _members(b, kind)) for kind in KINDS}
    totals = {"edges": a.graph.n_edges, "nodes": len(a.graph.nodes)}
    totals["heads"] = a.graph.n_layers * a.graph.n_heads
    rows = [_overlap(*sets[kind], totals[kind]) for kind in KINDS]
    columns = {name: (("kind",), np.array([row[name] for row in rows])) for name in rows[0]}
    shared = {kind: sorted(sets[kind][0] & sets[kind][1]) for kind in ("edges", "heads")}
    attrs = {
        "a": a.name,
        "b": b.name,
        **{f"shared_{kind}": ", ".join(found) for kind, found in shared.items()},
    }
    return xr.Dataset(columns, {"kind": list(KINDS)}, attrs)


def _members(circuit: Circuit, kind: str) -> set[str]:
    return set({"edges": circuit.edges, "nodes": circuit.nodes, "heads": circuit.heads}[kind]())


def _overlap(a: set[str], b: set[str], total: int) -> dict[str, float | int]:
    both, either = len(a & b), len(a | b)
    return {
        "a": len(a),
        "b": len(b),
        "both": both,
        "total": total,
        "jaccard": both / either if either else np.nan,
        "share_of_a": both / len(a) if a else np.nan,
        "share_of_b": both / len(b) if b else np.nan,
        "expected": len(a) * len(b) / total,
        "p": float(hypergeom.sf(both - 1, total, len(a), len(b))),
    }
