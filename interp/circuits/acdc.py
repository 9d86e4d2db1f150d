"""ACDC: cut every edge that the metric does not miss (Conmy et al. 2023, arXiv:2304.14997).

1. Start with every edge. Go through the readers from the logits back to the first layer, and through the
   edges of each from the last writer to the first.
2. A reader whose nodes have no kept edge to anything is dead: its edges are cut without a run.
3. Cut the edge and measure the loss (the mean over prompts; for metrics where higher is better, minus it).
   If it grows by less than the threshold, the edge stays cut.

The decisions are exactly these, one after the other. What makes them fast:
- speculation: one batch holds the next edges, row i as if the edges before it were decided as guessed; rows
  count up to the first wrong guess (`acdc_search.py`);
- laziness: a row is computed as a change to the circuit so far, so that only what kept edges reach from the
  cut is run, at the positions that matter (`forward.py`).

Rounding: a batch and a single run agree to about 1e-7 in float32. Decisions within 1e-6 of the threshold are
counted and named in the provenance (`n_ties`, `ties`).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits.ablation import Ablation
from interp.circuits.acdc_search import Rule, Search, edge_order
from interp.circuits.acdc_store import Store, identity, open_store
from interp.circuits.acdc_trace import circuit_of
from interp.circuits.checks import the_metric
from interp.circuits.circuit import Circuit
from interp.circuits.graph import Graph
from interp.circuits.job import Job, prepare
from interp.circuits.losses import Losses
from interp.engine.memory import DEFAULT_BUDGET
from interp.models import Model
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric

_FIRST = 16


def acdc(
    model: Model,
    task: Task,
    threshold: float | int,
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    metric: Metric | None = None,
    absolute: bool = False,
    order: str = "late",
    guess: Circuit | None = None,
    store: str | Path | None = None,
    resume: bool = True,
    chunk: int | None = None,
    memory: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> Circuit:
    """The circuit that is left when every edge has been tried once.

    threshold: in units of the metric; a lower one keeps more edges. -inf keeps all, inf none.
    ablation: what a cut edge carries: "resample" (the corrupt prompts), "zero", "mean", or constants
        [writer, d_model]. The clean prompts are run; give `task.swap()` for the other direction.
    metric: KL by default; any metric that a mean over prompts makes sense of.
    absolute: cut if the loss changes by less than the threshold, up or down.
    order: of the edges into a reader: "late" (from the last writer) or "early".
    guess: a circuit that the result will be like, such as that of a higher threshold. It saves forwards where
        it is right and changes nothing else.
    store: a file that every batch of decisions is appended to; the same call after a kill resumes from it
        (with `resume=False` a file that exists is refused). One that holds another run is refused.
    chunk: rows in a batch at most; by default what keeps the processor busy. memory: bytes to use above the
        model's own.
    progress: one bar, counting decided edges.

    Returns a Circuit whose scores are the growth of the loss when each edge was tried (NaN: dead reader) and
    whose provenance has threshold, recipe and counts; `trace(circuit)` gives the decisions in order.

    Cost: two forwards per prompt; for each edge into a live reader a row, of which only the changes are run.
    Raises ValueError for anything wrong with the request, before the first forward pass.
    """
    measure = the_metric(metric, KL())
    rule = Rule(float(threshold), absolute)
    _check(rule, order, guess, chunk, model)
    job = prepare(model, task, ablation, "noise", measure, memory)
    recorded = None if store is None else open_store(store, identity(model, task, job, rule, order), resume)
    with torch.inference_mode():
        return search(job, task, rule, order, guess, recorded, Losses(job), chunk, progress)


def search(
    job: Job,
    task: Task,
    rule: Rule,
    order: str,
    guess: Circuit | None,
    recorded: Store | None,
    losses: Losses,
    chunk: int | None,
    progress: bool,
) -> Circuit:
    """Decide every edge, from where the store stands on."""
    limit = losses.limit if chunk is None else min(chunk, losses.limit)
    found = Search(job.graph, order, rule, losses.loss(losses.clean), _FIRST, limit)
    if guess is not None:
        found.expected |= guess.kept.cpu().numpy()
    rows = batches = 0
    if recorded is not None:
        rows, batches = recorded.replay(found, losses.sign)
    with tqdm(
        total=len(found.order), initial=found.at, disable=not progress, desc="acdc", unit="edge"
    ) as bar:
        bar.set_postfix(kept=found.kept)
        while not found.done:
            first, proposal = found.at, found.propose()
            measured = losses(proposal.masks, found.mask) if len(proposal.masks) else []
            found.take(proposal, [losses.loss(value) for value in measured])
            rows, batches = rows + len(measured), batches + 1
            if recorded is not None:
                recorded.append(found, first, proposal, measured)
            bar.update(found.at - first)
            bar.set_postfix(kept=found.kept)
    return circuit_of(found, job, task, losses.clean, rows, batches)


def _check(rule: Rule, order: str, guess: Circuit | None, chunk: int | None, model: Model) -> None:
    if math.isnan(rule.threshold):
        raise ValueError("the threshold is NaN. Give a number in units of the metric, or inf.")
    graph = Graph.of(model)
    edge_order(Graph(1, 1), order)  # raises for an unknown order
    if guess is not None and guess.graph != graph:
        raise ValueError(
            f"guess={guess.name!r} is a circuit of another model: its graph is {guess.graph}, this model's "
            f"is {graph}. Give a circuit of this model, or none."
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1, or None.")
