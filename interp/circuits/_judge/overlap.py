"""A circuit beside another: overlap of two circuits, and scores against a known circuit.

`compare`: do two circuits share more than chance (circuit reuse across tasks)? Merullo et al. 2023
(arXiv:2310.08744) found the circuits of indirect objects and coloured objects to share most of their heads.

`roc`: scores of edges against a known circuit. The three areas in use differ in how they join the points:

- `rank`: the probability that an edge of the circuit scores above another edge, ties counting one half (the
  area under straight lines between all distinct thresholds).
- `trapezoid`: straight lines between circuits of fixed sizes only (0.1 to 100 % of edges), as where circuits
  are compared by size (MIB, Mueller et al. 2504.13151).
- `pessimistic`: the lower staircase through all distinct thresholds, as in ACDC (Conmy et al. 2304.14997);
  a set of tied edges counts for nothing until all of them are in.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.integrate import trapezoid
from scipy.stats import hypergeom

from interp._verbs import verb
from interp.circuits._circuit import Circuit
from interp.circuits._select import RANKINGS, Scores, mean_scores, ranked

KINDS = ("edges", "nodes", "heads")


@verb
def compare(a: Circuit, b: Circuit) -> xr.Dataset:
    """Overlap of two circuits of one graph. No forward pass.

    Returns a Dataset by `kind` (edges, nodes, heads): the counts `a`, `b`, `both`, `total` (in the graph);
    `jaccard` (both / either), `share_of_a`, `share_of_b`; `expected`, what two independent draws of these
    sizes would share, and `p`, the chance that they share at least as many (hypergeometric). Attributes:
    shared_edges and shared_heads, the names.
    Raises ValueError for circuits of different graphs.

    Example:
        >>> from interp.circuits import Circuit, Graph
        >>> graph = Graph(n_layers=1, n_heads=2, attn_only=True)
        >>> a = Circuit.from_edges(graph, ["input->logits", "a0.h0->logits"], name="a")
        >>> b = Circuit.from_edges(graph, ["input->logits"], name="b")
        >>> round(float(interp.circuits.compare(a, b)["jaccard"].sel(kind="edges")), 2)
        0.5
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


SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@verb
def roc(scores: Scores, truth: Circuit, *, by: str = "absolute") -> xr.Dataset:
    """How well scores find the edges of a known circuit.

    scores: of `score_edges` (their mean over prompts), or a circuit with scores. Edges without a score rank
    last, all alike. by: "absolute" or "signed".

    Returns a Dataset: `false_positive` and `true_positive` rates along `point` (one for each distinct score,
    and (0, 0)), with the coordinate `threshold`; the areas `auroc` by `area`: rank, trapezoid, pessimistic.
    Raises ValueError for scores of another graph, or a truth that holds no edge or every edge.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> areas = interp.circuits.roc(scores, interp.circuits.top(scores, 40))["auroc"]
        >>> round(float(areas.sel(area="rank")), 3)
        1.0
    """
    if by not in RANKINGS:
        raise ValueError(f"by is {by!r}; it must be one of {', '.join(RANKINGS)}.")
    graph = truth.graph
    means = mean_scores(scores, graph)
    allowed = graph.allowed.numpy()
    positive = truth.kept.cpu().numpy()[allowed]
    if positive.all() or not positive.any():
        raise ValueError(f"{truth.name!r} holds {int(positive.sum())} of {len(positive)} edges: no curve.")
    size = means[allowed] if by == "signed" else np.abs(means[allowed])
    threshold, false, true = points(np.nan_to_num(size, nan=-np.inf), positive)
    areas = {
        "rank": float(trapezoid(true, false)),
        "trapezoid": _at_sizes(ranked(means, by), truth),
        "pessimistic": pessimistic(false, true),
    }
    return xr.Dataset(
        {
            "false_positive": ("point", false),
            "true_positive": ("point", true),
            "auroc": ("area", np.array(list(areas.values()))),
        },
        {"threshold": ("point", threshold), "area": list(areas)},
        {"truth": truth.name, "by": by, "n_true": int(positive.sum()), "n_edges": len(positive)},
    )


def points(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from high to low, and the rates of false and true positives at or above each."""
    order = np.argsort(-score, kind="stable")
    ordered, hit = score[order], positive[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    true = np.append(0, hit.cumsum()[last]) / hit.sum()
    false = np.append(0, (~hit).cumsum()[last]) / (~hit).sum()
    return np.append(np.inf, ordered[last]), false, true


def pessimistic(false: np.ndarray, true: np.ndarray) -> float:
    """The area under the lower staircase: each rise counts from the point that it ends in."""
    return float(((1 - false[1:]) * np.diff(true)).sum())


def _at_sizes(order: np.ndarray, truth: Circuit) -> float:
    kept, n = truth.kept.cpu().numpy().ravel(), truth.graph.n_edges
    hits = np.append(0, kept[order].cumsum())
    false, true = [0.0], [0.0]
    for size in SIZES[:-1]:
        count = min(round(size * n), len(order))
        true.append(hits[count] / kept.sum())
        false.append((count - hits[count]) / (n - kept.sum()))
    return float(trapezoid([*true, 1.0], [*false, 1.0]))
