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

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._judge.faithfulness import recipe
from interp.circuits._paths import random_paths
from interp.circuits._run.batch import measure, metric_coord
from interp.circuits._run.job import masks_of, prepare, start
from interp.experiment import MEMORY, Metrics
from interp.models import Model
from interp.tasks import Task


@verb
def hypothesis_tests(
    model: Model,
    task: Task,
    circuit: Circuit,
    *,
    alpha: float = 0.05,
    tolerance: float = 0.1,
    share: float = 0.9,
    draws: int = 50,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> xr.Dataset:
    """Equivalence, independence and minimality of a circuit without positions.

    alpha: a test rejects below it. tolerance: of equivalence. share, draws: of minimality. The rest as in
    `circuits.run`.

    Returns a Dataset by `test` (and metric, if there are several): `statistic` (win rate; HSIC; share of
    edges that are not rejected), `p` (of minimality the smallest, times the number of edges), `rejected`; by
    `edge`: `effect` and `p_edge`.

    Cost, by prompt: a forward of a circuit for each of 3 + edges + 2 draws. Raises ValueError before the
    first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> circuit = interp.circuits.top(interp.circuits.score_edges(model, task, progress=False), 20)
        >>> tests = interp.circuits.hypothesis_tests(model, task, circuit, draws=5, progress=False)
        >>> tests["test"].values.tolist()
        ['equivalence', 'independence', 'minimality']
    """
    graph = Graph.of(model)
    mask = masks_of(circuit, graph, task)[0]
    _check(circuit, graph, draws, alpha)
    if not 0 < share <= 1 or not 0 <= tolerance < float("inf"):
        raise ValueError(
            f"share is {share} and tolerance {tolerance}; give a share above 0, at most 1, and a finite "
            "tolerance of 0 or more."
        )
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, seed=seed,
        batch_size=batch_size, memory=memory, progress=progress,
    )  # fmt: skip
    masks = _masks(graph, mask, draws, np.random.default_rng(seed))
    measured = measure(start(experiment), masks)
    columns = [
        _tests(raw, whole, circuit.n_edges, draws, tolerance, share, alpha, seed)
        for raw, whole in zip(np.moveaxis(measured.raw, -1, 0), measured.whole.T)
    ]
    dims = {name: ("test" if name in ("statistic", "p") else "edge", "metric") for name in columns[0]}
    variables = {name: (dims[name], np.stack([c[name] for c in columns], -1)) for name in dims}
    variables["rejected"] = (("test", "metric"), variables["p"][1] < alpha)
    coords = {"test": ["equivalence", "independence", "minimality"], "edge": _names(graph, mask)}
    settings = {"alpha": alpha, "tolerance": tolerance, "share": share, "draws": draws}
    attrs = recipe(experiment, "hypothesis tests", circuit=circuit.name, **settings)
    return results.dataset(variables, coords | metric_coord(experiment), attrs)


def _tests(
    raw: Float[np.ndarray, "prompt circuit"],
    whole: Float[np.ndarray, "prompt"],
    n_edges: int,
    draws: int,
    tolerance: float,
    share: float,
    alpha: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """The tests by one metric, of the circuits of `_masks`."""
    kept, rest = raw[:, 0], raw[:, 1]
    ones, bigger, smaller = np.split(raw[:, 2:], [n_edges, n_edges + draws], axis=1)
    effect = np.abs(kept[:, None] - ones).mean(0)
    p_edge = minimality(effect, np.abs(bigger - smaller).mean(0), share)
    statistic, p = zip(
        equivalence(kept, whole, tolerance),
        independence(rest, whole, seed=seed),
        (float((p_edge >= alpha).mean()), float(p_edge.min())),
    )
    return {"statistic": np.array(statistic), "p": np.array(p), "effect": effect, "p_edge": p_edge}


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
