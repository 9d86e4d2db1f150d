"""The n edges of greatest total score among all circuits without loose ends, by integer programming.

`prune(top(scores, n))` drops what is on no path, and has fewer than n edges; `greedy` keeps n but decides one
by one. Here all edges are decided together. With x_e = 1 for a kept edge e = (u, r) and y_v = 1 for a node v
on a path from the input to the logits:

    maximise  Σ s_e x_e   with   Σ x_e = n,   y_input = y_logits = 1,
    x_e ≤ y_u                                       its writer is reached
    x_e ≤ Σ y_v over the nodes v that read r         its reader is of use
    y_v ≤ Σ x_e over the edges into v                a node has an edge in
    y_v ≤ Σ x_e over the edges out of v              and one out

The graph has no cycles, so that "each node has an edge in and an edge out" is "each node is on a path". The
program is solved by HiGHS (`scipy.optimize.milp`), which also bounds what any circuit could reach: the gap to
that bound is in the provenance, 0 where the circuit is proved to be the best.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack

from interp._verbs import verb, warn
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._paths import on_paths
from interp.circuits._select import Scores, made, ranks, read, require_number

_PROVED = 1e-9  # of the total score: what floating point leaves of a gap


@verb
def connected(scores: Scores, n: int, *, absolute: bool = True, seconds: float | int = 60) -> Circuit:
    """The n edges of highest total score of which each lies on a path from the input to the logits.

    absolute: as in `top`. seconds: time limit of the solver; where it stops before the proof, the best
    circuit so far is given, with a warning.

    Returns a Circuit with exactly n edges. Provenance: `total`, the sum of their scores (of their sizes, if
    `absolute`); `bound`, which no such circuit can exceed; `gap`, bound - total, in the same unit.

    Cost: no pass. If the n best edges are connected they are the answer at once; otherwise a mixed integer
    program with two constraints an edge: seconds for thousands of edges, minutes for 10⁵. Raises ValueError
    for scores with positions, no edges, more edges than there are, a number of edges that no connected
    circuit has, and a time limit that was too short for any circuit.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> circuit = interp.circuits.connected(scores, 30)
        >>> circuit.n_edges, interp.circuits.prune(circuit).n_edges, round(circuit.provenance["gap"], 6)
        (30, 30, 0.0)
    """
    graph, values, told = read(scores)
    if values.ndim != 2:
        raise ValueError(
            f"connected takes scores without positions, and these have {values.shape[0]}. Use top and prune, "
            "or sum over positions: scores.sum('pos', min_count=1)."
        )
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds is {seconds}; give a time limit above 0.")
    ranked = ranks(values, absolute)
    require_number(n, int((ranked > -math.inf).sum()))
    if n < 1:
        raise ValueError("n is 0; a circuit that connects the input and the logits has at least 1 edge.")
    mask, bound = _best(graph, ranked.numpy(), n, float(seconds))
    total = float(ranked[mask].sum())
    gap = max(0.0, bound - total)
    gap = 0.0 if gap <= _PROVED * (1 + abs(total)) else gap
    if gap:
        warn(
            f"the solver stopped after {seconds} s: the total score is {total:.6g}, and no circuit can "
            f"exceed {bound:.6g}. Give it more seconds=, or take the circuit as it is."
        )
    more = {"n": n, "total": total, "bound": bound if gap else total, "gap": gap}
    return made(graph, mask, values, told, "connected", absolute, **more)


def _best(graph: Graph, ranked: np.ndarray, n: int, seconds: float) -> tuple[torch.Tensor, float]:
    """The mask, and a bound on the total of any circuit."""
    there = np.flatnonzero(ranked.ravel() > -math.inf)
    score = ranked.ravel()[there]
    mask = torch.zeros_like(graph.allowed)
    first = there[np.argsort(-score, kind="stable")[:n]]
    mask.view(-1)[torch.from_numpy(first)] = True
    if bool((on_paths(graph, mask) == mask).all()):
        return mask, float(ranked[mask.numpy()].sum())
    solved = _solve(graph, there, score, n, seconds)
    if solved.x is None:
        if solved.status == 2:
            raise ValueError(f"no connected circuit of this graph has exactly {n} edges. Give another n.")
        raise ValueError(
            f"the solver found no circuit of {n} edges in {seconds:g} s. Give it more seconds=, or "
            "use greedy."
        )
    mask = torch.zeros_like(graph.allowed)
    mask.view(-1)[torch.from_numpy(there[solved.x[: len(there)] > 0.5])] = True
    bound = float(solved.mip_dual_bound) * -float(np.abs(score).max() or 1.0)
    return mask, min(bound, float(np.sort(score)[::-1][:n].sum()))


def _solve(graph: Graph, there: np.ndarray, score: np.ndarray, n: int, seconds: float) -> OptimizeResult:
    """Variables: an x for each edge with a score, then a y for each node."""
    n_edges, n_nodes = len(there), len(graph.nodes)
    writer, reader = np.divmod(there, len(graph.readers))
    owners = graph.owners.numpy()  # [reader, node]
    edge = np.arange(n_edges)
    keep = _matrix(edge, edge, (n_edges, n_edges))
    source = _matrix(edge, writer, (n_edges, n_nodes))
    target = csr_array(owners[reader].astype(float))  # [edge, node]
    inner = np.arange(1, n_nodes - 1)  # the input needs no edge in, the logits none out
    here = _matrix(np.arange(len(inner)), inner, (len(inner), n_nodes))
    rows = [_beside(keep, -source), _beside(keep, -target)]
    rows += [_beside(-(here @ target.T), here), _beside(-(here @ source.T), here)]
    least = vstack(rows)
    total = _beside(csr_array(np.ones((1, n_edges))), csr_array((1, n_nodes)))
    ends = np.zeros(n_edges + n_nodes)
    ends[[n_edges, -1]] = 1
    return milp(
        np.concatenate((-score / (np.abs(score).max() or 1.0), np.zeros(n_nodes))),
        integrality=np.ones(n_edges + n_nodes),
        bounds=Bounds(ends, np.ones_like(ends)),  # pyright: ignore[reportArgumentType]
        constraints=[LinearConstraint(least, -np.inf, 0), LinearConstraint(total, n, n)],
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )


def _matrix(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Ones at some places."""
    return coo_array((np.ones(len(row)), (row, column)), shape=shape).tocsr()


def _beside(edges: csr_array, nodes: csr_array) -> csr_array:
    return csr_array(hstack((edges, nodes)))
