"""The circuit that a search found, and its decisions read back from it."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

import numpy as np
import torch

from interp.circuits.acdc_search import Search, edge_order
from interp.circuits.circuit import Circuit, Provenance
from interp.circuits.job import Job
from interp.patching.result import versions
from interp.tasks import Task

_NAMED = 20  # ties


class Step(NamedTuple):
    """One decision. `value` is the mean metric with the edge cut; NaN for an edge of a dead reader."""

    edge: str
    value: float
    kept: bool


def trace(circuit: Circuit) -> list[Step]:
    """The decisions of ACDC, in order.

    Raises ValueError for a circuit that `acdc` did not make.
    """
    told = circuit.provenance
    if told.get("method") != "acdc" or circuit.scores is None:
        raise ValueError(f"{circuit.name!r} was not found by acdc (method {told.get('method')!r}): no trace.")
    sign = -1.0 if told["better"] == "higher" else 1.0
    loss, steps = sign * float(told["metric_clean"]), []
    for writer, reader in edge_order(circuit.graph, str(told["order"])).tolist():
        increase = float(circuit.scores[writer, reader])
        kept = bool(circuit.mask[writer, reader])
        steps.append(Step(circuit.graph.name(writer, reader), sign * (loss + increase), kept))
        loss = loss if kept or math.isnan(increase) else loss + increase
    return steps


def circuit_of(search: Search, job: Job, task: Task, clean: float, rows: int, batches: int) -> Circuit:
    """A finished search as a circuit. Provenance holds strings and finite numbers, as JSON does."""
    graph, rule = search.graph, search.rule
    scores = torch.full(search.mask.shape, math.nan, dtype=torch.float64)
    scores[tuple(search.order.T)] = torch.from_numpy(search.increase)
    tried = ~np.isnan(search.increase)
    close = [i for i in np.flatnonzero(tried) if rule.tie(float(search.increase[i]))]
    ties = [graph.name(*edge) for edge in search.order[close].tolist()]
    sign = -1.0 if job.metric.better == "higher" else 1.0
    finite = math.isfinite(rule.threshold)
    made: Provenance = {
        "method": "acdc",
        "threshold": rule.threshold if finite else str(rule.threshold),
        "absolute": rule.absolute,
        "order": search.order_name,
        "ablation": job.ablation.kind,
        "direction": "noise",
        "metric": job.metric.name,
        "better": job.metric.better,
        "metric_clean": clean,
        "metric_circuit": sign * search.loss,
        "model": job.budget.facts.name,
        "task": task.name,
        "task_fingerprint": task.fingerprint(),
        "prompts": len(task),
        "seed": -1 if task.seed is None else task.seed,
        "decided_by_a_run": int(tried.sum()),
        "rows": rows,
        "batches": batches,
        "n_ties": len(ties),
        "ties": ", ".join(ties[:_NAMED]),
        "versions": json.dumps(versions()),
    }
    mask = torch.from_numpy(search.mask)
    return Circuit(graph, mask, scores, made, f"acdc {job.metric.name} {rule.threshold:g}")
