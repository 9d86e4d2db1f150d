"""Scores of edges against a known circuit: the ROC curve and three areas under it.

The three areas in use differ in how they join the points:

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

from interp.circuits.circuit import Circuit
from interp.circuits.ranking import RANKINGS, Scores, mean_scores, ranked

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def roc(scores: Scores, truth: Circuit, *, by: str = "absolute") -> xr.Dataset:
    """How well scores find the edges of a known circuit.

    scores: of `score_edges` (their mean over prompts), or a circuit with scores. Edges without a score rank
    last, all alike. by: "absolute" or "signed".

    Returns a Dataset: `false_positive` and `true_positive` rates along `point` (one for each distinct score,
    and (0, 0)), with the coordinate `threshold`; the areas `auroc` by `area`: rank, trapezoid, pessimistic.
    Raises ValueError for scores of another graph, or a truth that holds no edge or every edge.
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
