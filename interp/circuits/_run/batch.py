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

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.forward import Forward
from interp.circuits._run.job import Job, masks_of, prepare, the_metric
from interp.circuits._run.reach import WHOLE, Reach, reach
from interp.circuits._run.state import Base, State
from interp.engine.memory import DEFAULT_BUDGET, Budget
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


def batch_reach(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool
) -> Reach:
    """What a batch has to compute."""
    differs = masks != state.mask
    if masks.ndim == 4:
        masks, differs = masks.any(1), differs.any(1)
    return reach(base.spans, masks.cpu().numpy(), differs.cpu().numpy(), base.reads.everywhere, lazy)


def values(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool = True
) -> Float[Tensor, "circuit prompt"]:
    """The metric of a batch of circuits, all at once."""
    return planned_values(base, state, masks, batch_reach(base, state, masks, lazy))


def planned_values(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], plan: Reach
) -> Float[Tensor, "circuit prompt"]:
    """`values` for a plan at hand."""
    return base.score(Forward(base, state, masks, plan).logits())


def rebased(base: Base, mask: Bool[Tensor, "writer reader"]) -> State:
    """The state of one circuit."""
    state = base.full.copy(mask)
    masks = mask[None]
    Forward(base, base.full, masks, batch_reach(base, base.full, masks, True), state).logits()
    return state


def room(base: Base, masks: Bool[Tensor, "circuit *pos writer reader"], budget: Budget, lazy: bool) -> int:
    """How many circuits like these fit in half of the budget at once."""
    return planned_room(base, batch_reach(base, base.full, masks, lazy), budget)


def planned_room(base: Base, plan: Reach, budget: Budget) -> int:
    """`room` for a plan at hand."""
    f, n, n_pos = budget.facts, len(base.runs), base.width
    changed = int((plan.writers > 0).sum() + (plan.writers == WHOLE).sum() * n_pos)
    inputs = 3 * min(f.n_heads + 2 * f.n_key_value_heads, int((plan.readers > 0).sum()) + 1) * f.d_model
    stage = n_pos * max(inputs, 3 * f.d_mlp)
    keys = 4 * n_pos * f.n_heads * (f.d_head + base.n_keys)
    columns = len(base.reads.columns) if base.reads.columns is not None else f.d_vocab_out
    out = 6 * columns * (base.runs.n_pos if base.reads.everywhere else 1)
    each = n * (changed * f.d_model + stage + keys + out) * budget.item_size
    return max(1, int(budget.limit / 2 / each))


def by_depth(graph: Graph, masks: Bool[Tensor, "circuit *pos writer reader"]) -> np.ndarray:
    """Circuits in order of the first reader that has a cut edge, so that those of a batch start alike."""
    cut = (graph.allowed.to(masks.device) & ~masks).flatten(1, -2).any(1)  # [circuit, reader]
    first = torch.where(cut.any(1), cut.int().argmax(1), cut.shape[1])
    return torch.argsort(first, stable=True).cpu().numpy()
