"""Tests of hypotheses about a circuit (Shi et al. 2024, arXiv:2410.13032).

1. Equivalence: the metric of the circuit against the model's, prompt by prompt.
2. Independence: the metric with the circuit's edges cut against the model's.
3. Minimality: cut each edge of the circuit; the reference are random paths added to it, of which one edge
   that they brought is cut.

| test           | null hypothesis                                           | a small p says         |
|----------------|-----------------------------------------------------------|------------------------|
| `equivalence`  | circuit and model outdo one another about equally often    | it behaves otherwise   |
| `independence` | what the model does without it does not depend on the model | it misses something    |
| `minimality`   | each edge beats edges added at random, with chance `share` | an edge is not needed  |

So a good circuit is one that none of them rejects, which says more the more prompts there are.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import binom
from torch import Tensor

from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._judge.faithfulness import measured, recipe
from interp.circuits._paths import random_paths
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.job import masks_of, prepare, the_metric
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
    p_edge = minimality(effect, np.abs(bigger - smaller).mean(0), share)
    statistic, p = zip(
        equivalence(kept, whole, tolerance),
        independence(rest, whole, seed=seed),
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


def equivalence(
    circuit: Float[np.ndarray, "prompt"], model: Float[np.ndarray, "prompt"], tolerance: float = 0.1
) -> tuple[float, float]:
    """The share of prompts on which the circuit's metric is above the model's, and the p-value.

    The null hypothesis is that its chance lies within `tolerance` of one half. Ties are left out; with ties
    alone the share is one half and p is 1.
    """
    above, below = int((circuit > model).sum()), int((circuit < model).sum())
    n = above + below
    if n == 0:
        return 0.5, 1.0
    most, chance = max(above, below), 0.5 + tolerance
    p = binom.sf(most - 1, n, chance) + binom.cdf(n - most, n, chance)
    return above / n, float(min(1.0, p))


def independence(
    rest: Float[np.ndarray, "prompt"],
    model: Float[np.ndarray, "prompt"],
    permutations: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """HSIC of two metrics over prompts (Gaussian kernels, median widths), and its permutation p-value.

    A constant is independent of everything: 0 and 1.
    """
    if np.ptp(rest) == 0 or np.ptp(model) == 0:
        return 0.0, 1.0
    first, second = _centred(_kernel(rest)), _kernel(model)
    n, rng = len(rest), np.random.default_rng(seed)
    observed = float((first * second).sum()) / n**2
    draws = np.empty(permutations)
    for i in range(permutations):
        order = rng.permutation(n)
        draws[i] = (first * second[np.ix_(order, order)]).sum() / n**2
    return observed, float((1 + (draws >= observed).sum()) / (1 + permutations))


def minimality(
    effects: Float[np.ndarray, "edge"], reference: Float[np.ndarray, "draw"], share: float = 0.9
) -> Float[np.ndarray, "edge"]:
    """p-value of each edge, for several tests at once (Bonferroni): that it does more than random edges do.

    effects: how much the metric changes when an edge of the circuit is cut. reference: the same for edges
    that were added at random. The null hypothesis is that an edge beats a random one with a chance of at
    least `share`.
    """
    beaten = (effects[:, None] > reference[None]).sum(1)
    return np.minimum(1.0, len(effects) * binom.cdf(beaten, len(reference), share))


def _kernel(x: np.ndarray) -> np.ndarray:
    square = (x[:, None] - x[None]) ** 2
    width = np.median(square[square > 0])
    return np.exp(-square / width)


def _centred(kernel: np.ndarray) -> np.ndarray:
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
