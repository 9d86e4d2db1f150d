"""Where the nodes of a circuit stand: rows by layer, input below, logits above; few crossings.

1. A row holds the heads of a layer, another its MLP; rows without a node are left out.
2. Within a row nodes go in the order of the mean place of their neighbours (barycentres, Sugiyama et al.
   1981), a few sweeps up and down.
3. MLPs stand in a column of their own, to the right of all heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_SWEEPS = 8
_ASIDE = 1.3  # of the MLPs from the outermost head


@dataclass(frozen=True)
class Edge:
    """One line of the picture."""

    source: str
    target: str
    part: str  # "q", "k", "v", or "" for MLPs and logits
    score: float  # NaN: none
    text: str  # shown under the pointer


def row(node: str) -> tuple[int, int]:
    """Layer, and 0 for attention, 1 for the MLP."""
    if node == "input":
        return (-1, 0)
    if node == "logits":
        return (10**9, 0)
    found = re.fullmatch(r"([am])(\d+)(?:\.h\d+|\.all)?", node)
    if found is None:
        raise ValueError(f"{node!r} is not a node's name, such as input, a9.h6, m5 or logits.")
    return (int(found[2]), int(found[1] == "m"))


def label(node: str) -> str:
    """The name of a node in the style of the package: L9H6, MLP5."""
    if found := re.fullmatch(r"a(\d+)\.h(\d+)", node):
        return f"L{found[1]}H{found[2]}"
    if found := re.fullmatch(r"a(\d+)\.all", node):
        return f"L{found[1]} heads"
    return re.sub(r"^m(\d+)", r"MLP\1", node)


def places(edges: Iterable[Edge]) -> dict[str, tuple[float, float]]:
    """x and y of every node that an edge touches; y counts rows, x is centred on 0."""
    pairs = [(edge.source, edge.target) for edge in edges]
    rows = _rows(sorted({node for pair in pairs for node in pair}))
    near: dict[str, list[str]] = {}
    for source, target in pairs:
        near.setdefault(source, []).append(target)
        near.setdefault(target, []).append(source)
    at = {node: _x(i, len(nodes)) for nodes in rows for i, node in enumerate(nodes)}
    for sweep in range(_SWEEPS):
        for nodes in rows[:: -1 if sweep % 2 else 1]:
            nodes.sort(key=lambda node: (float(np.mean([at[other] for other in near[node]])), node))
            at |= {node: _x(i, len(nodes)) for i, node in enumerate(nodes)}
    right = max(x for node, x in at.items() if not node.startswith("m")) + _ASIDE
    at |= {node: right for node in at if node.startswith("m")}
    return {node: (at[node], float(y)) for y, nodes in enumerate(rows) for node in nodes}


def curved(start: tuple[float, float], end: tuple[float, float], bend: float) -> tuple[list, list]:
    """A line from node to node that leaves upwards, bent aside so that it passes by what lies between."""
    t = np.linspace(0, 1, 17)
    (x0, y0), (x1, y1) = start, end
    rise = y1 - y0
    points = np.array([[x0, y0], [x0 + bend, y0 + 0.45 * rise], [x1 + bend, y1 - 0.45 * rise], [x1, y1]])
    weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x, y = points.T @ weights
    return x.tolist(), y.tolist()


def _rows(nodes: list[str]) -> list[list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for node in nodes:
        found.setdefault(row(node), []).append(node)
    return [sorted(found[key], key=_head) for key in sorted(found)]


def _head(node: str) -> int:
    return int(node.rpartition(".h")[2]) if ".h" in node else 0


def _x(index: int, count: int) -> float:
    return index - (count - 1) / 2
