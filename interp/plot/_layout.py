"""Where the nodes of a circuit stand, and how its edges go round them.

1. A row holds the heads of a layer (at most `_MOST`, else several rows), another its MLP; rows without a node
   are left out. The input is below, the logits above.
2. Within a row nodes go in the order of the mean place of their neighbours (barycentres, Sugiyama et al.
   1981), a few sweeps up and down. MLPs stand in a column of their own, to the right of all heads.
3. An edge passes each row between at the free place that is nearest to the straight line, upright as long as
   it is beside boxes, and turns in the gap between two rows: so no edge crosses the words of another node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

_MOST = 11  # nodes in a row
_SWEEPS = 8
_ASIDE = 1.3  # of the MLPs from the outermost head
_STEP, _NEAR, _REACH = 0.04, 0.07, 8.0  # of the places that are tried; between two edges; the farthest
_TURN = 9  # points of a turn

At = dict[str, tuple[float, float]]


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
    match = re.fullmatch(r"([am])(\d+)(?:\.h\d+|\.all)?", node)
    if match is None:
        raise ValueError(f"{node!r} is not a node's name, such as input, a9.h6, m5 or logits.")
    return (int(match[2]), int(match[1] == "m"))


def label(node: str) -> str:
    """The name of a node in the style of the package: L9H6, MLP5."""
    if match := re.fullmatch(r"a(\d+)\.h(\d+)", node):
        return f"L{match[1]}H{match[2]}"
    if match := re.fullmatch(r"a(\d+)\.all", node):
        return f"L{match[1]} heads"
    return re.sub(r"^m(\d+)", r"MLP\1", node)


def places(edges: Iterable[Edge]) -> At:
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


def _rows(nodes: list[str]) -> list[list[str]]:
    rows: dict[tuple[int, int], list[str]] = {}
    for node in nodes:
        rows.setdefault(row(node), []).append(node)
    ordered = [sorted(rows[key], key=_head) for key in sorted(rows)]
    return [part for nodes in ordered for part in _split(nodes)]


def _split(nodes: list[str]) -> list[list[str]]:
    """A row, or several of equal length where it has too many nodes."""
    count = -(-len(nodes) // _MOST)
    size = -(-len(nodes) // count)
    return [nodes[i : i + size] for i in range(0, len(nodes), size)]


def _head(node: str) -> int:
    return int(node.rpartition(".h")[2]) if ".h" in node else 0


def _x(index: int, count: int) -> float:
    return index - (count - 1) / 2


def routes(edges: Iterable[Edge], at: At, widths: Mapping[str, float], height: float) -> list[np.ndarray]:
    """The way of every edge, points [n, 2] from the top of its source to the bottom of its target.

    widths: half the width of each node's box; height: half the height of all, as a share of a row.
    """
    boxes: dict[int, list[tuple[float, float]]] = {}
    for node, (x, y) in at.items():
        boxes.setdefault(int(y), []).append((x, widths[node]))
    used: dict[int, list[float]] = {}
    return [_route(edge, at, widths, height, boxes, used) for edge in edges]


def _route(
    edge: Edge,
    at: At,
    widths: Mapping[str, float],
    height: float,
    boxes: Mapping[int, list[tuple[float, float]]],
    used: dict[int, list[float]],
) -> np.ndarray:
    (x0, y0), (x1, y1) = at[edge.source], at[edge.target]
    aside = {"q": -0.4, "k": 0.0, "v": 0.4}.get(edge.part, 0.0) * widths[edge.target]
    end = x1 + aside
    xs, ys = [x0], [y0]
    for y in range(int(y0) + 1, int(y1)):
        straight = xs[-1] + (end - xs[-1]) * (y - ys[-1]) / (y1 - ys[-1])
        taken = used.setdefault(y, [])
        xs.append(_free(straight, boxes.get(y, []), taken))
        ys.append(float(y))
        taken.append(xs[-1])
    return _drawn([*xs, end], [*ys, y1], height)


def _free(wanted: float, boxes: list[tuple[float, float]], used: list[float]) -> float:
    """The place nearest to the wanted one beside all boxes, and if there is one, beside other edges."""
    steps = np.arange(0, _REACH, _STEP)
    tried = wanted + np.stack([steps, -steps], 1).ravel()
    beside = np.ones(len(tried), dtype=bool)
    for x, width in boxes:
        beside &= np.abs(tried - x) > width + _NEAR
    alone = beside.copy()
    for x in used:
        alone &= np.abs(tried - x) > _NEAR
    chosen = [float(tried[np.argmax(alone)])] if alone.any() else []
    nearest = float(tried[np.argmax(beside)]) if beside.any() else wanted
    return chosen[0] if chosen and abs(chosen[0] - nearest) < 1.0 else nearest


def _drawn(xs: list[float], ys: list[float], height: float) -> np.ndarray:
    """Upright beside boxes, turning smoothly between rows."""
    t = np.linspace(0, 1, _TURN)
    smooth = t * t * (3 - 2 * t)
    points = []
    for i in range(len(xs) - 1):
        low, high = ys[i] + height, ys[i + 1] - height
        points.append(np.stack([xs[i] + (xs[i + 1] - xs[i]) * smooth, low + (high - low) * t], 1))
    return np.concatenate(points)
