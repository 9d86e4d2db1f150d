"""Run many circuits at once: the metric of the model with some of its edges cut.

1. Run the clean prompts, and what cut edges carry (`ablation.py`), once.
2. A reader sees resid − Σ over cut edges (what the writer writes now − what it is replaced by), at its
   input, before the norm. The corrections are matrix products over writers, for all circuits and readers.
3. Circuits are computed as changes to the run with nothing cut: only what a cut edge reaches, and what
   reaches the logits, at the positions and columns that the metric reads.

Values are raw metric values, in the metric's own unit and sign. Resample ablation and edges: Wang et al. 2022
(2211.00593), Conmy et al. 2023 (2304.14997); constants: Li & Janson 2024 (2409.09951).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits.ablation import Ablation
from interp.circuits.checks import masks_of, the_metric
from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph
from interp.circuits.job import Job, by_depth, prepare, room, values
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import Metric

_LOOK = 64  # circuits that tell how much memory one of the next takes; later ones change less


def run(
    model: Model,
    task: Task,
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "circuit *pos writer reader"],
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    *,
    direction: str = "noise",
    metric: Metric | None = None,
    chunk: int | None = None,
    lazy: bool = True,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> Float[Tensor, "circuit prompt"]:
    """The metric of every circuit on every prompt, float64.

    circuits: a Circuit, several, or masks [circuit, (pos,) writer, reader], True where an edge is kept.
    ablation: "resample", "zero", "mean", or constants [writer, d_model].
    direction: "noise" runs the clean prompts and cuts bring in the corrupt ones; "denoise" the other way
        round (resample only). The metric and its answers are the task's in both.
    metric: the task's own by default.
    chunk: circuits at once; by default as many as `memory` allows.
    lazy: compute only what a cut can reach; False computes every node (the values are the same).
    memory: bytes to use above the model's own.

    Cost: two forwards per prompt, and for each circuit the readers that change.
    Raises ValueError for anything wrong with the request, before the first forward pass.
    """
    masks = masks_of(circuits, Graph.of(model), task)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1, or None to fill the memory.")
    job = prepare(model, task, ablation, direction, the_metric(metric, task.metric), memory)
    with torch.inference_mode():
        found = run_masks(job, masks.to(job.runs.base.device), chunk, lazy, progress)
    return found.clone()


def run_masks(job: Job, masks: Tensor, chunk: int | None, lazy: bool, progress: bool) -> Tensor:
    """The metric of every mask on every prompt of a job: [circuit, prompt]."""
    out = torch.empty(len(masks), len(job.runs), dtype=torch.float64, device=masks.device)
    order = torch.as_tensor(by_depth(job.graph, masks), device=masks.device)
    with tqdm(total=out.numel(), disable=not progress, desc="run", unit="run") as bar:
        for block, base in job.bases():
            first = 0
            while first < len(order):
                size = chunk or room(base, masks[order[first : first + _LOOK]], job.budget, lazy)
                some = order[first : first + size]
                out[some, block] = values(base, base.full, masks[some], lazy)
                first += size
                bar.update(len(some) * len(base.runs))
    return out
