"""Circuits of a model on a task, checked before the first forward pass, and ready to run.

Memory: half of the budget for what a block of prompts holds (the base run, and the gap of every writer), half
for the circuits of a batch. Both only decide how much is done at once, never the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits._circuit import Circuit
from interp.circuits._graph import Graph, Spans
from interp.circuits._run.ablation import Ablation, parse
from interp.circuits._run.state import Base
from interp.engine.memory import DEFAULT_BUDGET, Budget
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.engine.trust import require_weights
from interp.models import Anatomy, Model, anatomy, unsupported
from interp.models.parts import Weights
from interp.patching.corruption import DIRECTIONS
from interp.patching.request import check_model as check_fit
from interp.tasks import Task
from interp.tasks.metrics import Metric


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
        columns = facts.d_vocab_out if reads.columns is None else len(reads.columns)
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
    """Check everything, then let `engine.trust` compare a pass by the weights with the model's own."""
    facts = check_model(model, task)
    check_direction(direction)
    if memory < 1:
        raise ValueError(f"memory is {memory} bytes; give a positive number, such as 2 * 2**30.")
    graph = Graph.of(model)
    chosen = parse(ablation, graph, task, direction)
    with torch.inference_mode():
        runs = chosen.runs(model, task, direction)
        blocks = trusted_weights(model, facts, runs)
    return Job(blocks, Spans(graph), runs, metric, chosen, Budget(facts, memory))


def trusted_weights(model: Model, facts: Anatomy, runs: Runs) -> Weights:
    """The model's weights. Raises ValueError unless they give its logits and what its writers write."""
    sites = tuple(site for site in ("z", "attn_out", "mlp_out") if site in facts.sites())
    return require_weights(model, runs.base, runs.lengths, sites=sites, what="circuits")


def check_model(model: Model, task: Task) -> Anatomy:
    """The facts of a model. Raises ValueError for a model whose edges cannot be cut, or a task of another."""
    facts = anatomy(model)
    if facts.post_norm:
        raise ValueError(
            f"{facts.name} norms what attention and MLPs write before it reaches the stream (Gemma 2 and 3, "
            "OLMo 2), so what a head adds depends on the other heads of its layer and no edge has a write of "
            "its own. Circuits need a model without such norms; interp.patch takes this one."
        )
    if reason := unsupported(model):
        raise ValueError(f"circuits cannot be run on {facts.name}: {reason}.")
    check_fit(model, facts, task)
    return facts


def check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction {direction!r} is not one of {', '.join(DIRECTIONS)}.")


def the_metric(metric: Metric | None, default: Metric) -> Metric:
    """The metric to measure. Raises ValueError for something else."""
    metric = default if metric is None else metric
    if not isinstance(metric, Metric):
        raise ValueError(f"{metric!r} is not a metric. Use interp.tasks.LogitDiff() and its like.")
    return metric


def masks_of(
    circuits: Circuit | Sequence[Circuit] | Bool[Tensor, "circuit *pos writer reader"],
    graph: Graph,
    task: Task,
) -> Bool[Tensor, "circuit *pos writer reader"]:
    """The masks of some circuits, True where an edge is kept. ValueError for those of another model."""
    if isinstance(circuits, Tensor):
        masks = circuits
    else:
        masks = _stacked([circuits] if isinstance(circuits, Circuit) else list(circuits), graph)
    wanted = (len(graph.writers), len(graph.readers))
    if masks.ndim not in (3, 4) or tuple(masks.shape[-2:]) != wanted or masks.dtype != torch.bool:
        raise ValueError(
            f"the mask is {masks.dtype} {list(masks.shape)}; this model needs torch.bool "
            f"[circuit, (pos,) {wanted[0]} writers, {wanted[1]} readers], True where an edge is kept."
        )
    if masks.ndim == 4:
        _check_positions(masks, task)
    return masks & graph.allowed.to(masks.device)


def _stacked(circuits: list[Circuit], graph: Graph) -> Tensor:
    if not circuits:
        raise ValueError("no circuit given. Give a Circuit, a list of them, or a mask tensor.")
    for circuit in circuits:
        if circuit.graph != graph:
            raise ValueError(
                f"{circuit.name!r} is a circuit of another model: its graph is {circuit.graph}, this model's "
                f"is {graph}. Use the model that it was found in."
            )
    lengths = {circuit.mask.shape[0] for circuit in circuits if circuit.mask.ndim == 3}
    if len(lengths) > 1:
        raise ValueError(f"the circuits have {sorted(lengths)} positions. Run those of each length apart.")
    if not lengths:
        return torch.stack([circuit.mask for circuit in circuits])
    shape = (lengths.pop(), *graph.allowed.shape)
    return torch.stack([circuit.mask.expand(shape) for circuit in circuits])


def _check_positions(masks: Tensor, task: Task) -> None:
    n_pos = task.clean.shape[1]
    if masks.shape[1] != n_pos:
        raise ValueError(f"the masks have {masks.shape[1]} positions, the prompts have {n_pos} tokens.")
    if (task.lengths != task.lengths[0]).any() or (task.positions != task.positions[0]).any():
        raise ValueError(
            f"prompts differ in length ({int(task.lengths.min())} to {int(task.lengths.max())} tokens) or in "
            "the answer's position, so one position is not the same place in all of them. Give prompts of "
            "one length, or circuits without positions."
        )
