"""Run many circuits at once: the metrics of the model with some of its edges cut.

1. Run the clean prompts, and what cut edges carry (`ablation.py`), once.
2. A reader sees resid − Σ over cut edges (what the writer writes now − what it is replaced by), at its
   input, before the norm. The corrections are matrix products over writers, for all circuits and readers.
3. Circuits are computed as changes to the run with nothing cut: only what a cut edge reaches, and what
   reaches the logits, at the positions and columns that the metrics read.

Resample ablation and edges: Wang et al. 2022 (2211.00593), Conmy et al. 2023 (2304.14997); constants: Li &
Janson 2024 (2409.09951).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph
from interp.circuits._run.forward import Forward
from interp.circuits._run.job import Job, masks_of, names_of, prepare, start
from interp.circuits._run.reach import WHOLE, Reach, reach
from interp.circuits._run.state import Base, State
from interp.engine.memory import Budget
from interp.experiment import MEMORY, Experiment, Metrics
from interp.models import Model
from interp.tasks import Task

_LOOK = 64  # circuits that tell how much memory one of the next takes; later ones change less
CONVENTION = "effect = metric(circuit) - metric(every edge cut); positive: the circuit helps the metric"


@verb
def run(
    model: Model,
    task: Task,
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "circuit *pos writer reader"],
    *,
    lazy: bool = True,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    progress: bool = True,
) -> xr.Dataset:
    """The metric of every circuit on every prompt.

    circuits: a Circuit, several, or masks [circuit, (pos,) writer, reader], True where an edge is kept. A
        circuit by span (from scores with `positions="span"`) is cut at positions of no span.
    lazy: compute only what a cut can reach; False computes every node (the values are the same).
    ablation: what a cut edge carries: "resample", "zero", "mean", or constants [writer, d_model].
    direction: "noise" (the default) runs the clean prompts and cuts bring in the corrupt ones; "denoise" the
        other way round (resample only). The metric and its answers are the task's in both.
    metric: one or several, the task's own by default.
    batch_size: circuits at once; by default as many as `memory`, bytes above the model's own, allows.

    Returns a Dataset, dims prompt, circuit (and metric, if there are several): `raw`, the metric; `value`,
    the effect: raw less that with every edge cut, positive where the circuit helps; by prompt `clean`
    (nothing cut) and `empty` (everything cut).

    Cost: two forwards per prompt, and for each circuit the readers that change. Raises ValueError for
    anything wrong with the request, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> circuit = interp.circuits.top(interp.circuits.score_edges(model, task, progress=False), 40)
        >>> found = interp.circuits.run(model, task, [circuit], progress=False)
        >>> dict(found["value"].sizes)
        {'prompt': 4, 'circuit': 1}
    """
    masks = masks_of(circuits, Graph.of(model), task)
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
        memory=memory, progress=progress,
    )  # fmt: skip
    measured = measure(start(experiment), masks, lazy)
    attrs = results.attrs(experiment, method="run", site="edges", convention=CONVENTION)
    coords = {"circuit": names_of(circuits, len(masks)), **metric_coord(experiment)}
    return results.dataset(measured.variables(experiment, ("circuit",)), coords, attrs, task)


class Measured(NamedTuple):
    """Metrics of circuits, of the whole model, and with every edge cut."""

    raw: Float[np.ndarray, "prompt circuit metric"]
    whole: Float[np.ndarray, "prompt metric"]
    empty: Float[np.ndarray, "prompt metric"]

    def variables(
        self, experiment: Experiment, dims: tuple[str, ...], shape: tuple[int, ...] = ()
    ) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """`value`, `raw` and the baselines; circuits are unrolled to `shape`, in the order of `dims`."""
        better = np.array([1.0 if metric.better == "higher" else -1.0 for metric in experiment.metric])
        effect = better * (self.raw - self.empty[:, None])
        shape = shape or (self.raw.shape[1],)
        grid = lambda x: x.reshape(len(x), *shape, x.shape[-1])  # noqa: E731
        return {
            "value": (("prompt", *dims, "metric"), grid(effect)),
            "raw": (("prompt", *dims, "metric"), grid(self.raw)),
            "clean": (("prompt", "metric"), self.whole),
            "empty": (("prompt", "metric"), self.empty),
        }


def measure(job: Job, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool = True) -> Measured:
    """Run circuits, and the one that keeps nothing; the whole model is the base run itself."""
    every = torch.cat([torch.zeros_like(masks[:1]), masks])
    with torch.inference_mode():
        raw, whole = run_masks(job, every.to(job.runs.base.device), lazy)
    empty, *rest = raw.cpu().numpy()
    return Measured(np.stack(rest, 1), whole.cpu().numpy(), empty)


def metric_coord(experiment: Experiment) -> dict[str, list[str]]:
    return {"metric": [metric.name for metric in experiment.metric]}


def run_masks(
    job: Job, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool = True
) -> tuple[Float[Tensor, "circuit prompt metric"], Float[Tensor, "prompt metric"]]:
    """The metrics of every mask on every prompt of a job, and those of the base run."""
    budget, shape = job.experiment.budget, (len(job.runs), len(job.metric))
    out = torch.empty(len(masks), *shape, dtype=torch.float64, device=masks.device)
    whole = torch.empty(shape, dtype=torch.float64, device=masks.device)
    order = torch.as_tensor(by_depth(job.graph, masks), device=masks.device)
    total = len(masks) * len(job.runs)
    with tqdm(total=total, disable=not budget.progress, desc="circuits", unit="run") as bar:
        for block, base in job.bases():
            whole[block] = base.values
            mine = masks[:, block] if masks.ndim == 5 else masks  # [circuit, prompt, pos, writer, reader]
            first = 0
            while first < len(order):
                size = budget.batch_size or room(base, mine[order[first : first + _LOOK]], job.room, lazy)
                rows = order[first : first + size]
                out[rows, block] = values(base, base.full, mine[rows], lazy)
                first += size
                bar.update(len(rows) * len(base.runs))
    return out, whole


def batch_reach(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool
) -> Reach:
    """What a batch has to compute."""
    differs = masks != state.mask
    if masks.ndim > 3:
        masks, differs = masks.flatten(1, -3).any(1), differs.flatten(1, -3).any(1)
    return reach(base.spans, masks.cpu().numpy(), differs.cpu().numpy(), base.reads.everywhere, lazy)


def values(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], lazy: bool = True
) -> Float[Tensor, "circuit prompt metric"]:
    """The metrics of a batch of circuits, all at once."""
    return planned_values(base, state, masks, batch_reach(base, state, masks, lazy))


def planned_values(
    base: Base, state: State, masks: Bool[Tensor, "circuit *pos writer reader"], plan: Reach
) -> Float[Tensor, "circuit prompt metric"]:
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
    out = 3 * columns * (base.runs.n_pos if base.reads.everywhere else 1)
    each = n * (changed * f.d_model + stage + keys + out) * budget.item_size
    return max(1, int(budget.limit / 2 / each))


def by_depth(graph: Graph, masks: Bool[Tensor, "circuit *pos writer reader"]) -> np.ndarray:
    """Circuits in order of the first reader that has a cut edge, so that those of a batch start alike."""
    cut = (graph.allowed.to(masks.device) & ~masks).flatten(1, -2).any(1)  # [circuit, reader]
    first = torch.where(cut.any(1), cut.int().argmax(1), cut.shape[1])
    return torch.argsort(first, stable=True).cpu().numpy()
