"""The three tests of `hypothesis.py` on a circuit of a model.

1. Equivalence: the metric of the circuit against the model's, prompt by prompt.
2. Independence: the metric with the circuit's edges cut against the model's.
3. Minimality: cut each edge of the circuit; the reference are random paths added to it, of which one edge
   that they brought is cut.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.circuits import hypothesis
from interp.circuits.ablation import Ablation
from interp.circuits.checks import masks_of, the_metric
from interp.circuits.circuit import Circuit
from interp.circuits.curve import measured
from interp.circuits.faithfulness import recipe
from interp.circuits.graph import Graph
from interp.circuits.job import prepare
from interp.circuits.paths import random_paths
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import Metric


def hypothesis_tests(
    model: Model,
    task: Task,
    circuit: Circuit,
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    alpha: float = 0.05,
    tolerance: float = 0.1,
    share: float = 0.9,
    draws: int = 50,
    seed: int = 0,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> xr.Dataset:
    """Equivalence, independence and minimality of a circuit without positions.

    alpha: a test rejects below it. tolerance: of equivalence. share, draws: of minimality. The rest as in
    `circuits.run`.

    Returns a Dataset by `test`: `statistic` (win rate; HSIC; share of edges that are not rejected), `p` (of
    minimality the smallest, times the number of edges), `rejected`; by `edge`: `effect` and `p_edge`.

    Cost, by prompt: a forward of a circuit for each of 4 + edges + 2 draws. Raises ValueError before the
    first forward pass.
    """
    graph = Graph.of(model)
    mask = masks_of(circuit, graph, task)[0]
    _check(circuit, graph, draws, alpha)
    job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
    values, whole, _ = measured(job, _masks(graph, mask, draws, np.random.default_rng(seed)), progress)
    kept, rest = values[:, 0], values[:, 1]
    ones, bigger, smaller = np.split(values[:, 2:], [circuit.n_edges, circuit.n_edges + draws], axis=1)
    effect = np.abs(kept[:, None] - ones).mean(0)
    p_edge = hypothesis.minimality(effect, np.abs(bigger - smaller).mean(0), share)
    statistic, p = zip(
        hypothesis.equivalence(kept, whole, tolerance),
        hypothesis.independence(rest, whole, seed=seed),
        (float((p_edge >= alpha).mean()), float(p_edge.min())),
    )
    variables = {"statistic": ("test", np.array(statistic)), "p": ("test", np.array(p))}
    variables |= {"rejected": ("test", np.array(p) < alpha)}
    variables |= {"effect": ("edge", effect), "p_edge": ("edge", p_edge)}
    coords = {"test": ["equivalence", "independence", "minimality"], "edge": _names(graph, mask)}
    attrs = recipe(job, task, direction, "hypothesis tests") | {"circuit": circuit.name}
    attrs |= {"alpha": alpha, "tolerance": tolerance, "share": share, "draws": draws, "seed": seed}
    return xr.Dataset(variables, coords, attrs)


def _masks(graph: Graph, mask: Tensor, draws: int, rng: np.random.Generator) -> Tensor:
    """The circuit, its complement, it less each edge; with random paths added, and those less an edge."""
    cut = [_less(mask, edge) for edge in mask.nonzero().tolist()]
    inflated = [random_paths(graph, int(mask.sum()) + 1, rng, start=mask) for _ in range(draws)]
    less = [_less(more, rng.choice((more & ~mask).nonzero().numpy()).tolist()) for more in inflated]
    return torch.stack([mask, graph.allowed & ~mask, *cut, *inflated, *less])


def _less(mask: Tensor, edge: list[int]) -> Tensor:
    found = mask.clone()
    found[tuple(edge)] = False
    return found


def _names(graph: Graph, mask: Tensor) -> np.ndarray:
    return np.array([graph.name(*edge) for edge in mask.nonzero().tolist()], dtype=object)


def _check(circuit: Circuit, graph: Graph, draws: int, alpha: float) -> None:
    if circuit.mask.ndim != 2:
        raise ValueError(f"{circuit.name!r} has positions; these tests take circuits without.")
    if not 0 < circuit.n_edges < graph.n_edges:
        raise ValueError(
            f"{circuit.name!r} holds {circuit.n_edges} of {graph.n_edges} edges; these tests need a circuit "
            "with some edges, and some left to add at random."
        )
    if draws < 1 or not 0 < alpha < 1:
        raise ValueError(f"draws is {draws} and alpha {alpha}; give at least 1 draw, and alpha in (0, 1).")
