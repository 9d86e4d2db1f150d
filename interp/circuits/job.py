"""Circuits of a model on a task, checked and ready to run: blocks of prompts, batches of circuits.

Memory: half of the budget for what a block of prompts holds (the base run, and the gap of every writer), half
for the circuits of a batch. Both only decide how much is done at once, never the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.ablation import Ablation, parse
from interp.circuits.checks import check_direction, check_model
from interp.circuits.forward import Forward
from interp.circuits.graph import Graph
from interp.circuits.reach import WHOLE, Reach, reach
from interp.circuits.spans import Spans
from interp.circuits.state import Base, State
from interp.engine.memory import DEFAULT_BUDGET, Budget
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.models import Model, is_bridge, logits, weights
from interp.models.parts import Weights
from interp.tasks import Task
from interp.tasks.metrics import Metric

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-4}


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that running circuits needs, checked."""

    weights: Weights
    spans: Spans
    runs: Runs
    metric: Metric
    ablation: Ablation
    budget: Budget

    @property
    def graph(self) -> Graph:
        return self.spans.graph

    def bases(self) -> Iterator[tuple[slice, Base]]:
        """Blocks of prompts, each with its base run."""
        n, size = len(self.runs), self._prompts_at_once()
        for start in range(0, n, size):
            block = slice(start, min(start + size, n))
            yield block, self.base(block)

    def base(self, block: slice = slice(None)) -> Base:
        """The base run of some prompts."""
        return Base(self.weights, self.runs.take(block), self.spans, self.metric, self.ablation.constants)

    def _prompts_at_once(self) -> int:
        facts, reads = self.budget.facts, Reads(self.runs, (self.metric,))
        columns = facts.d_vocab if reads.columns is None else len(reads.columns)
        per_pos = len(self.graph.writers) * facts.d_model * 2
        per_pos += facts.n_layers * (8 * facts.d_model + 8 * facts.n_heads * facts.d_head)
        each = self.runs.n_pos * per_pos + 4 * columns * (self.runs.n_pos if reads.everywhere else 1)
        return max(1, int(self.budget.limit / 2 / (each * self.budget.item_size)))


def prepare(
    model: Model,
    task: Task,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation,
    direction: str,
    metric: Metric,
    memory: int = DEFAULT_BUDGET,
) -> Job:
    """Check everything, then compare one forward of the first prompt with the model's own."""
    facts = check_model(model, task)
    check_direction(direction)
    if memory < 1:
        raise ValueError(f"memory is {memory} bytes; give a positive number, such as 2 * 2**30.")
    graph = Graph.of(model)
    chosen = parse(ablation, graph, task, direction)
    with torch.inference_mode():
        runs = chosen.runs(model, task, direction)
        job = Job(weights(model), Spans(graph), runs, metric, chosen, Budget(facts, memory))
        _check_forward(model, job)
    return job


def _check_forward(model: Model, job: Job) -> None:
    """Raise ValueError unless heads, biases and MLPs, added up, give the model's own logits."""
    base = job.base(slice(0, 1))
    own = logits(model, job.runs.base[:1])
    columns = base.reads.columns
    own = own if columns is None else own[..., columns]
    own = own if base.reads.everywhere else own[base.prompts, base.runs.positions]
    found = base.full.logits
    # Hugging Face's norms inside a bridge compute in float32, whatever the dtype.
    dtype = torch.float32 if is_bridge(model) and own.dtype == torch.float64 else own.dtype
    gap = ((own.to(found) - found).abs() / (1 + found.abs())).max().item()
    if not gap <= _TOLERANCE.get(dtype, 0.1):
        raise ValueError(
            f"circuits cannot be run on {job.budget.facts.name}: its logits are not what its heads, biases "
            f"and MLPs add up to (they differ by {gap:.2g}). Its architecture is not supported."
        )


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
    columns = len(base.reads.columns) if base.reads.columns is not None else f.d_vocab
    out = 6 * columns * (base.runs.n_pos if base.reads.everywhere else 1)
    each = n * (changed * f.d_model + stage + keys + out) * budget.item_size
    return max(1, int(budget.limit / 2 / each))


def by_depth(graph: Graph, masks: Bool[Tensor, "circuit *pos writer reader"]) -> np.ndarray:
    """Circuits in order of the first reader that has a cut edge, so that those of a batch start alike."""
    cut = (graph.allowed.to(masks.device) & ~masks).flatten(1, -2).any(1)  # [circuit, reader]
    first = torch.where(cut.any(1), cut.int().argmax(1), cut.shape[1])
    return torch.argsort(first, stable=True).cpu().numpy()
