"""Circuits by training a mask: a gate for every edge or every node, opened and closed by gradient descent.

1. A gate has a parameter θ (`gates.py`). Each step draws gates for a batch of prompts, each prompt
   its own, and runs the model with soft edges (`soft.py`).
2. The loss is the metric's mean (KL from the clean run by default) plus λ₁ (t − s) + λ₂ (t − s)², where s is
   the expected share of cut edges and t the share asked for, which grows from 0 over the first half. θ
   follows the slope down, λ up.
3. The circuit is the edges with the highest θ, exactly as many as asked for; its scores are θ.

| settings                                        | known as                                               |
|-------------------------------------------------|--------------------------------------------------------|
| gates of edges, hard-concrete                   | edge pruning (Bhaskar et al. 2024, 2406.16778)         |
| gates of nodes, hard-concrete                   | subnetwork probing (Cao et al. 2021, 2104.03514)       |
| gates of edges, uniform, ablation "learned"     | uniform gradient sampling with optimal ablation        |
|                                                 | (Li & Janson 2024, 2409.09951)                         |

With "learned" the constants that cut edges carry are trained beside the gates, from the means of the corrupt
prompts on. With `start=` the gates begin from scores instead of alike. The model's weights do not change.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp._verbs import verb
from interp.ablation import Ablation
from interp.attribution._by_hooks import autograd_on
from interp.circuits._circuit import Circuit, Provenance
from interp.circuits._graph import Graph
from interp.circuits._run.job import Job, one_metric, prepare
from interp.circuits._search import gates
from interp.circuits._search.gates import Settings, State
from interp.circuits._search.soft import Batches
from interp.circuits._select import Scores, mean_scores, name_of
from interp.experiment import Experiment, Metrics
from interp.models import Model
from interp.stores import StateStore, open_state
from interp.tasks import Task
from interp.tasks.metrics import KL

_SAVE_EVERY = 25
_CONVENTION = "score = θ of the gate; higher: more open"


@verb
def train_mask(
    model: Model,
    task: Task,
    sparsity: float | int = 0.95,
    *,
    granularity: str = "edges",
    gate: str = "hard-concrete",
    steps: int = 300,
    prompts: int = 8,
    learning_rate: float | int = 0.1,
    penalty_rate: float | int = 0.1,
    start: Scores | None = None,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metrics | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: bool = True,
) -> TrainedCircuit:
    """The circuit of the gates that stay open.

    sparsity: share of all edges (or nodes) to cut, 0 to 1. granularity: "edges" or "nodes".
    gate: "hard-concrete" or "uniform" (uniform gradient sampling).
    steps, prompts (of each step), learning_rate (of the gates), penalty_rate (of λ): of the training.
    start: scores of edges that the gates begin from: by the rank of its size an edge's gate begins more or
        less open, up to 1 in θ on either side of the usual beginning. None: all begin alike.
    ablation: what a cut edge carries: "resample", "zero", "mean", constants [writer, d_model], or "learned".
    metric: what to keep, one, KL by default; any with a gradient. The clean prompts are run.
    store: a file that the state is saved to every 25 steps; the same call after a kill goes on from there and
        ends the same. One of another run, or in use, is refused.

    Returns a Circuit with θ as scores, and `constants` [writer, d_model] if they were learned. The same seed
    gives the same circuit on the same machine.

    Cost: a step is two forwards of the batch, and a forward and backward in which every reader has its input.
    Raises ValueError for anything wrong with the request, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8)
        >>> circuit = interp.circuits.train_mask(model, task, sparsity=0.9, steps=10, progress=False)
        >>> round(circuit.n_edges / circuit.graph.n_edges, 1)
        0.1
    """
    rates = {"learning_rate": float(learning_rate), "penalty_rate": float(penalty_rate)}
    settings = Settings(float(sparsity), granularity, gate, steps, prompts, seed=seed, **rates)
    learned = isinstance(ablation, str) and ablation == "learned"
    experiment = prepare(
        model, task, ablation="mean" if learned else ablation, direction="noise",
        metric=KL() if metric is None else metric, seed=seed, store=store, progress=progress,
    )  # fmt: skip
    measure = one_metric(experiment, "train_mask")
    if not measure.differentiable:
        raise ValueError(
            f"metric {measure.name!r} has no gradient (it counts). Use KL, LogitDiff or LogProb."
        )
    ahead = None if start is None else _ahead(start, Graph.of(model), settings)
    identity = _identity(experiment, settings, learned, ahead)
    with open_state(experiment.budget.store, "train_mask", identity) as kept:
        with torch.inference_mode(False), torch.no_grad():
            job = Job.of(experiment)
            job = Job(experiment, job.weights, job.spans, job.runs.outside_inference())
            batches = Batches(job, settings.prompts, settings.seed)
        with autograd_on():
            state = State.new(settings, job.graph, batches.mean_writes() if learned else None, ahead)
            if kept is not None and kept.tensors is not None:
                state.take(kept.tensors)
            _train(job, settings, state, batches, kept)
    trained = trained_circuit(job, settings, state, learned)
    if start is not None:
        trained.provenance["start"] = name_of(start)
    return trained


def _ahead(start: Scores, graph: Graph, settings: Settings) -> Float[Tensor, "edge"]:
    """By how much each edge's θ begins above or below the others': -1 to 1 by the rank of its size."""
    if settings.granularity != "edges":
        raise ValueError("start= has scores of edges, and the gates are of nodes. Use granularity='edges'.")
    size = np.nan_to_num(np.abs(mean_scores(start, graph)[graph.allowed.numpy()]))
    return torch.from_numpy(2 * (rankdata(size) - 0.5) / len(size) - 1)


def _identity(
    experiment: Experiment, settings: Settings, learned: bool, ahead: Tensor | None
) -> dict[str, Any]:
    own = {setting.name: repr(getattr(settings, setting.name)) for setting in fields(settings)}
    own |= {"ablation": "learned"} if learned else {}
    own |= {} if ahead is None else {"start": hashlib.sha256(ahead.numpy().tobytes()).hexdigest()[:12]}
    return {**experiment.identity(), **own}


def _train(job: Job, settings: Settings, state: State, batches: Batches, store: StateStore | None) -> None:
    metric, quiet = job.metric[0], not job.experiment.budget.progress
    sign = -metric.sign
    steps = settings.steps
    with tqdm(total=steps, initial=state.step, disable=quiet, desc="train_mask", unit="step") as bar:
        for step in range(state.step, steps):
            generator = torch.Generator().manual_seed(_seed(settings.seed, step))
            soft, clean = batches.draw(step, state.constants)
            mask = state.mask(job.graph, gates.sample(settings.gate, state.theta, len(soft.runs), generator))
            measured = soft.score(soft.logits(mask), clean).mean()
            share = 1 - gates.open_share(settings.gate, state.theta).mean()
            target = settings.sparsity * min(1.0, 2 * (step + 1) / steps)
            gap = target - share
            loss = sign * measured + state.penalties[0] * gap + state.penalties[1] * gap**2
            state.update(loss.to(state.theta.dtype), settings)
            if not bool(torch.isfinite(state.theta).all()):
                raise ValueError(
                    f"the slope of {metric.name} in the gates is not finite in step {step}. Use a metric "
                    "whose slope is, or load the model in float32."
                )
            state.losses.append(float(measured.detach()))
            bar.update()
            bar.set_postfix({metric.name: f"{state.losses[-1]:.3g}", "cut": f"{float(share.detach()):.1%}"})
            if store is not None and (state.step % _SAVE_EVERY == 0 or state.step == steps):
                store.save(state.tensors())


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step, 1)).generate_state(1)[0])


@dataclass(frozen=True, eq=False, repr=False)
class TrainedCircuit(Circuit):
    """A circuit, with the constants that its cut edges carry if they were learned, and the metric by step.

    A file of it (`save`) holds the circuit alone.
    """

    constants: Float[Tensor, "writer d_model"] | None = None
    losses: tuple[float, ...] = field(default=())


def trained_circuit(job: Job, settings: Settings, state: State, learned: bool) -> TrainedCircuit:
    """The gates with the highest θ, as many as are asked for."""
    theta = state.theta.detach()
    n = round((1 - settings.sparsity) * len(theta))
    kept = torch.zeros(len(theta), dtype=torch.bool)
    kept[torch.argsort(theta, descending=True, stable=True)[:n]] = True
    mask, scores = (_of_edges if state.edges else _of_nodes)(job.graph, kept, theta)
    last = state.losses[-max(1, len(state.losses) // 10) :]
    attrs: Provenance = results.attrs(
        job.experiment,
        method="train_mask",
        site="edges",
        convention=_CONVENTION,
        granularity=settings.granularity,
        gate=settings.gate,
        sparsity=settings.sparsity,
        steps=settings.steps,
        prompts=settings.prompts,
        learning_rate=settings.learning_rate,
        penalty_rate=settings.penalty_rate,
        metric_last=sum(last) / len(last),
        open_share=float(gates.open_share(settings.gate, theta).mean()),
    )
    attrs |= {"ablation": "learned"} if learned else {}
    constants = None if state.constants is None else state.constants.detach().to(job.weights.W_E.dtype)
    name = f"train_mask {settings.granularity} {settings.sparsity:g}"
    return TrainedCircuit(job.graph, mask, scores, attrs, name, constants, tuple(state.losses))


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
