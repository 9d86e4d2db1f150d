"""A score for every writer: what cutting all of its edges does to the metric, measured or estimated.

Estimates are first order, so a node's score is the sum of the scores of the edges out of it (for "eap" the
change of the writer's output times the slope of the metric in the stream after it). "exact" cuts all edges
out of the node at once, which is not the sum of their exact effects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits._run.ablation import Ablation
from interp.circuits._run.batch import room, values
from interp.circuits._run.job import Job, prepare, the_metric
from interp.circuits._run.state import Base
from interp.circuits._score import methods as edge_methods
from interp.circuits._score.edges import score_edges
from interp.circuits._score.result import edge_dataset, of_nodes
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.patching.result import signs
from interp.tasks import Task
from interp.tasks.metrics import Metric


def score_nodes(
    model: Model,
    task: Task,
    method: str = "eap",
    *,
    ablation: str | Float[Tensor, "writer d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    positions: bool = False,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
    **options: Any,
) -> xr.Dataset:
    """The effect of every writer on the metric; arguments as for `score_edges`.

    Returns a Dataset: `value` with dims prompt, (pos,) writer; `clean` and `corrupt`. Positive: it helps.
    """
    if method == "exact" and not positions:
        edge_methods.parse(method, options)
        job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
        with torch.inference_mode():
            return _exact(job, task, direction, progress)
    edges = score_edges(
        model,
        task,
        method,
        ablation=ablation,
        direction=direction,
        metric=metric,
        positions=positions,
        memory=memory,
        progress=progress,
        **options,
    )
    return of_nodes(edges, edges["value"].sum("reader"))


def _exact(job: Job, task: Task, direction: str, progress: bool) -> xr.Dataset:
    graph, n = job.graph, len(task)
    allowed = graph.allowed.to(job.runs.base.device)
    masks = allowed & ~torch.eye(len(graph.writers), dtype=torch.bool, device=allowed.device)[..., None]
    found, ends = np.empty((n, len(masks))), np.empty((2, n))
    with tqdm(total=found.size, disable=not progress, desc="exact nodes", unit="run") as bar:
        for block, base in job.bases():
            ends[:, block] = base.values.cpu().numpy(), base.source_values.cpu().numpy()
            found[block] = _cut(job, base, masks) - ends[0, block, None]
            bar.update(found[block].size)
    clean, corrupt = ends if job.runs.clean_is_base else ends[::-1]
    empty = np.broadcast_to(np.nan, (n, *graph.allowed.shape))
    edges = edge_dataset(empty, clean, corrupt, job, task, direction, method="exact")
    effect = found * signs((job.metric,), direction)[0]
    return of_nodes(edges, xr.DataArray(effect, dims=("prompt", "writer")))


def _cut(job: Job, base: Base, masks: Tensor) -> np.ndarray:
    """The metric of every mask: [prompt, mask]."""
    size = room(base, masks, job.budget, True)
    parts = [values(base, base.full, masks[i : i + size]) for i in range(0, len(masks), size)]
    return torch.cat(parts).T.cpu().numpy()
