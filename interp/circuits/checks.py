"""What cannot be run as circuits, found before the first forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph
from interp.models import Anatomy, Model, anatomy, unsupported
from interp.patching.corruption import DIRECTIONS
from interp.patching.request import check_model as check_fit
from interp.tasks import Task
from interp.tasks.metrics import Metric


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
