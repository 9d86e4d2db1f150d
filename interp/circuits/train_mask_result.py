"""A trained mask as a circuit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits import hard_concrete as gates
from interp.circuits.circuit import Circuit, Provenance
from interp.circuits.graph import Graph
from interp.circuits.job import Job
from interp.circuits.train_mask_state import State
from interp.patching.result import versions
from interp.tasks import Task

if TYPE_CHECKING:
    from interp.circuits.train_mask import Settings


@dataclass(frozen=True, eq=False, repr=False)
class TrainedCircuit(Circuit):
    """A circuit, with the constants that its cut edges carry if they were learned, and the metric by step.

    A file of it (`save`) holds the circuit alone.
    """

    constants: Float[Tensor, "writer d_model"] | None = None
    losses: tuple[float, ...] = field(default=())


def trained_circuit(job: Job, task: Task, settings: Settings, state: State, learned: bool) -> TrainedCircuit:
    """The gates with the highest θ, as many as are asked for."""
    theta = state.theta.detach()
    n = round((1 - settings.sparsity) * len(theta))
    kept = torch.zeros(len(theta), dtype=torch.bool)
    kept[torch.argsort(theta, descending=True, stable=True)[:n]] = True
    graph = job.graph
    mask, scores = (_of_edges if state.edges else _of_nodes)(graph, kept, theta)
    last = state.losses[-max(1, len(state.losses) // 10) :]
    told: Provenance = {
        "method": "train_mask",
        "granularity": settings.granularity,
        "gate": settings.gate,
        "sparsity": settings.sparsity,
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "penalty_rate": settings.penalty_rate,
        "seed": settings.seed,
        "ablation": "learned" if learned else job.ablation.kind,
        "direction": "noise",
        "metric": job.metric.name,
        "better": job.metric.better,
        "metric_last": sum(last) / len(last),
        "open_share": float(gates.open_share(settings.gate, theta).mean()),
        "model": job.budget.facts.name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "prompts": len(task),
        "versions": json.dumps(versions()),
    }
    constants = None if state.constants is None else state.constants.detach().to(job.weights.W_E.dtype)
    name = f"train_mask {settings.granularity} {settings.sparsity:g}"
    return TrainedCircuit(graph, mask, scores, told, name, constants, tuple(state.losses))


def _of_edges(graph: Graph, kept: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    allowed = graph.allowed
    mask = torch.zeros_like(allowed).masked_scatter(allowed, kept)
    scores = torch.full(allowed.shape, math.nan, dtype=torch.float64).masked_scatter(allowed, theta)
    return mask, scores


def _of_nodes(graph: Graph, kept: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """All edges between kept nodes; an edge's score is the lower θ of its ends, where they have one."""
    always = torch.tensor([True])
    nodes = torch.cat((always, kept, always))
    height = torch.cat((torch.tensor([math.inf]), theta, torch.tensor([math.inf]))).double()
    into = (graph.owners & nodes).any(1)
    reach = height.expand(len(graph.readers), -1).where(graph.owners, -math.inf).amax(1)
    mask = graph.allowed & nodes[:-1, None] & into
    scores = torch.minimum(height[:-1, None], reach).where(graph.allowed, math.nan)
    top = theta.max() + 1 if len(theta) else torch.tensor(1.0)
    return mask, scores.clamp(max=float(top))
