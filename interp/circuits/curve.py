"""Faithfulness by size: circuits of the best 0.1 to 100 % of edges (MIB, Mueller et al. 2504.13151).

1. Rank the edges by their mean score: signed (what helps most comes first) and absolute (what matters most).
2. For each size keep the first edges, and of them those on a path from the input to the logits.
3. Run them all, and give the areas over the share of edges: CPR, that of faithfulness, under the signed
   ranking (higher is better), and CMD, that of |1 - faithfulness|, under the absolute one (lower is better).

Sizes are nominal (the share that was asked for, as MIB counts) and true (what is left on paths); both areas
are given on both. They run from the smallest size to 1, by straight lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.integrate import trapezoid
from torch import Tensor

from interp.circuits.ablation import Ablation
from interp.circuits.checks import the_metric
from interp.circuits.faithfulness import faithfulness, recipe
from interp.circuits.graph import Graph
from interp.circuits.job import Job, prepare
from interp.circuits.paths import on_paths
from interp.circuits.ranking import RANKINGS, Scores, first, mean_scores, ranked
from interp.circuits.roc import SIZES
from interp.circuits.run import run_masks
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import Metric


def curve(
    model: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[float | int] = SIZES,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    paths: bool = True,
    level: float = 0.95,
    seed: int = 0,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> xr.Dataset:
    """Faithfulness of the best edges, by size and ranking.

    scores: of `score_edges`, or a circuit with scores. sizes: shares of all edges, above 0, at most 1.
    paths: drop edges that are on no path from the input to the logits. level, seed: of the intervals.

    Returns a Dataset, dims ranking and size: `faithfulness`, `low`, `high`, `mean_of_ratios`, `edges` (what
    is left); `value` (also by prompt), the raw metric; `clean` and `empty` by prompt. Attributes: cpr, cmd
    (nominal sizes), cpr_true, cmd_true, and the recipe.

    Cost: one forward of a circuit a size, ranking and prompt. Raises ValueError before the first forward.
    """
    graph = Graph.of(model)
    means, shares = mean_scores(scores, graph), _check_sizes(sizes)
    job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
    masks = [_mask(graph, means, by, share, paths) for by in RANKINGS for share in shares]
    values, whole, empty = measured(job, torch.stack(masks), progress)
    attrs = recipe(job, task, direction, "curve")
    found = faithfulness(values, whole, empty, attrs, task.template, level=level, seed=seed)
    grid = (len(RANKINGS), len(shares))
    edges = np.array([int(mask.sum()) for mask in masks]).reshape(grid)
    dims = ("ranking", "size")
    variables = {name: (dims, array.values.reshape(grid)) for name, array in found.items()}
    variables |= {"edges": (dims, edges), "value": (("prompt", *dims), values.reshape(-1, *grid))}
    variables |= {"clean": (("prompt",), whole), "empty": (("prompt",), empty)}
    curves = variables["faithfulness"][1]
    attrs |= {
        "n_edges": graph.n_edges,
        "scores": _name(scores),
        **areas(curves, shares, edges / graph.n_edges),
    }
    return xr.Dataset(variables, {"ranking": list(RANKINGS), "size": shares}, attrs)


def measured(job: Job, masks: Tensor, progress: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The metric of circuits [prompt, circuit], of the whole model and with every edge cut [prompt]."""
    every = torch.cat([job.graph.allowed[None], torch.zeros_like(masks[:1]), masks])
    with torch.inference_mode():
        found = run_masks(job, every.to(job.runs.base.device), None, True, progress)
    whole, empty, *rest = found.cpu().numpy()
    return np.stack(rest, 1), whole, empty


def areas(
    curves: Float[np.ndarray, "ranking size"],
    nominal: Float[np.ndarray, "size"],
    true: Float[np.ndarray, "ranking size"],
) -> dict[str, float]:
    """CPR of the signed curve and CMD of the absolute one, over nominal and true sizes."""
    signed, absolute = curves[RANKINGS.index("signed")], np.abs(1 - curves[RANKINGS.index("absolute")])
    return {
        "cpr": float(trapezoid(signed, nominal)),
        "cmd": float(trapezoid(absolute, nominal)),
        "cpr_true": float(trapezoid(signed, true[RANKINGS.index("signed")])),
        "cmd_true": float(trapezoid(absolute, true[RANKINGS.index("absolute")])),
    }


def _mask(graph: Graph, means: np.ndarray, by: str, share: float, paths: bool) -> Tensor:
    mask = first(graph, ranked(means, by), max(1, round(share * graph.n_edges)))
    return on_paths(graph, mask) if paths else mask


def _check_sizes(sizes: Sequence[float | int]) -> np.ndarray:
    found = np.array(sizes, dtype=float)
    if (
        found.ndim != 1
        or not len(found)
        or not ((found > 0) & (found <= 1)).all()
        or (np.diff(found) <= 0).any()
    ):
        raise ValueError(f"sizes are {sizes}; give growing shares of all edges, above 0 and at most 1.")
    return found


def _name(scores: Scores) -> str:
    return str(scores.attrs.get("method", "")) if isinstance(scores, xr.Dataset) else scores.name
