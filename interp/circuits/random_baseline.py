"""How faithful are circuits of the same size drawn at random? The bar that a found circuit has to pass.

`uniform` draws edges; `paths` draws random walks from the logits back to the input and keeps their edges, so
that every edge of the random circuit can matter: the harder comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import Ablation
from interp.circuits.checks import the_metric
from interp.circuits.curve import measured
from interp.circuits.faithfulness import faithfulness, recipe
from interp.circuits.graph import Graph
from interp.circuits.job import prepare
from interp.circuits.paths import random_paths
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import Metric

KINDS = ("uniform", "paths")


def random_baseline(
    model: Model,
    task: Task,
    n_edges: int | Sequence[int],
    *,
    kind: str = "paths",
    draws: int = 20,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    seed: int = 0,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> xr.Dataset:
    """Faithfulness of random circuits.

    n_edges: the size, or several. kind: "uniform" or "paths" (then a circuit can be larger by a path's
    length). draws: circuits of each size.

    Returns a Dataset: `faithfulness` and `edges` by size and draw, `quantile` by size and level, and the
    recipe as attributes. Cost: a forward of a circuit a draw, size and prompt. Raises ValueError before the
    first forward.
    """
    graph = Graph.of(model)
    sizes = [n_edges] if isinstance(n_edges, int) else list(n_edges)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    if draws < 1 or not sizes or not all(1 <= size <= graph.n_edges for size in sizes):
        raise ValueError(
            f"draws is {draws} and n_edges {sizes}; give at least 1 draw, and sizes from "
            f"1 to {graph.n_edges}."
        )
    job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
    rng = np.random.default_rng(seed)
    masks = torch.stack([random_mask(graph, size, kind, rng) for size in sizes for _ in range(draws)])
    values, whole, empty = measured(job, masks, progress)
    attrs = recipe(job, task, direction, "random baseline") | {"kind": kind, "seed": seed}
    ratio = faithfulness(values, whole, empty, attrs, task.template)["faithfulness"].values
    grid = (len(sizes), draws)
    found = ratio.reshape(grid)
    edges = masks.flatten(1).sum(1).numpy().reshape(grid)
    return xr.Dataset(
        {
            "faithfulness": (("size", "draw"), found),
            "edges": (("size", "draw"), edges),
            "quantile": (("size", "level"), np.quantile(found, quantiles, axis=1).T),
        },
        {"size": sizes, "level": list(quantiles)},
        attrs,
    )


def random_mask(graph: Graph, n_edges: int, kind: str, rng: np.random.Generator) -> Tensor:
    """The mask of one random circuit."""
    if kind == "paths":
        return random_paths(graph, n_edges, rng)
    mask = torch.zeros_like(graph.allowed)
    every = np.flatnonzero(graph.allowed.numpy().ravel())
    mask.view(-1)[torch.from_numpy(rng.choice(every, n_edges, replace=False))] = True
    return mask
