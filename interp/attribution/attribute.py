"""Estimates of activation patching from a few passes: attribution patching and its relatives.

1. Run the source (what is patched in) and the base (what is patched into), the base with its graph.
2. The estimate of a cell is first order in the change of its activation,

       effect ≈ (a(source) - a(base)) · c,

   where the coefficient c is the slope of the metric in the base run, or a modified slope: see `method`.
3. All cells of all sites come out of the same passes. Positive means that the cell helps the metric, as in
   `interp.patch`; dims, coordinates and attributes are the same, so that results subtract.

Nanda 2023 (attribution patching), Syed et al. 2310.10348, Hanna et al. 2403.17806 (ig), Kramár et al.
2403.00745 (atp*), RelP 2508.21258, Achtibat et al. 2402.05602 (attnlrp), Edin et al. 2505.17630 (gim).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp.attribution.checks import check_model, check_request
from interp.attribution.estimator import Estimator, all_places
from interp.attribution.memory import prompts_at_once
from interp.attribution.passes import Passes
from interp.engine.memory import DEFAULT_BUDGET
from interp.methods import AtpStar, Method, parse
from interp.models import Model, anatomy
from interp.patching import corruption as corruptions
from interp.patching import request as requests
from interp.patching import result
from interp.patching.corruption import Corruption
from interp.patching.job import Job, prepare
from interp.patching.sheet import Sheet
from interp.tasks import Task
from interp.tasks.check import warn_unsolved
from interp.tasks.metrics import Metric


def attribute(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    method: str | Method = "atp",
    cells: Sequence[str | Sequence[str]] | None = None,
    direction: str | None = None,
    metrics: Metric | Sequence[Metric] | None = None,
    corruption: str | Corruption = "tokens",
    neurons: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: int = DEFAULT_BUDGET,
    progress: bool = True,
) -> xr.Dataset:
    """Estimated effect of patching every cell of a grid.

    model, task, site, by, direction, metrics, corruption, neurons: as in `interp.patch`.
    method: "atp" (gradient), "ig" (integrated gradients), "atp*" (QK fix and GradDrop), "relp", "attnlrp" and
        "gim" (relevance rules), "secant" (two-point slopes); or a value of `interp.methods` with its options,
        such as IG(steps=16) or Relp(ah=False).
    cells: instead of a grid, a list of cells by name; one place each.
    batch_size: prompts at once at most; by default as many as `memory` allows.
    memory: bytes to use above the model's own.

    Returns a Dataset as `interp.patch` does. With GradDrop values are magnitudes, without a sign.

    Cost, by prompt: two forwards, and one backward for every metric ("ig": 2 + steps forwards and steps
    backwards; "atp*": one backward for every layer), whatever the number of sites and cells.
    Raises ValueError for anything wrong with the request before the first forward pass, and at the first pass
    for a site that no gradient reaches. Warns `UnsolvedTask` as `interp.patch` does.
    """
    chosen = parse(method)
    with torch.inference_mode(False), torch.no_grad():
        options = {"by": by, "cells": cells, "window": 1, "neurons": neurons, "metrics": metrics}
        job = _job(model, task, site, direction, corruption, batch_size, memory, chosen, options)
    found = _run(job, chosen, progress)
    warn_unsolved(float(found["clean_right"].mean()))
    return found


def _job(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None,
    direction: str | None,
    corruption: str | Corruption,
    batch_size: int | None,
    memory: int,
    method: Method,
    options: dict[str, Any],
) -> Job:
    """The request, checked; no forward pass, but for the means of a mean ablation."""
    facts = anatomy(model)
    check_model(model)
    measured = requests.check_metrics(options["metrics"], task)
    spoilt = corruptions.parse(corruption)
    kind = {"Tokens": "resample"}.get(type(spoilt).__name__, type(spoilt).__name__.lower())
    method.check(measured, SimpleNamespace(kind=kind), corruptions.direction_of(spoilt, direction, task))
    job = prepare(model, task, site, direction, spoilt, batch_size, memory, **options)
    check_request(model, job.request, facts, method)
    return job


def _run(job: Job, method: Method, progress: bool) -> xr.Dataset:
    """Block by block of prompts."""
    facts, request, n = job.budget.facts, job.request, len(job.task)
    forwards, backwards = method.cost(facts.n_layers)
    backwards *= len(job.metrics)
    sheet = Sheet(job, _attrs(job, method, forwards, backwards))
    room = prompts_at_once(job.budget, job.runs.n_pos, request.all_sites, len(job.metrics), method)
    block = max(1, room // job.draws)
    starts = range(0, n, block)
    wanted, every_run = all_places(request.cells), job.runs.outside_inference()
    with tqdm(
        total=len(starts) * (forwards + backwards), disable=not progress, desc=method.name, unit="pass"
    ) as bar:
        for start in starts:
            prompts = slice(start, min(start + block, n))
            runs = every_run.take(slice(prompts.start * job.draws, prompts.stop * job.draws))
            passes = Passes(job.model, facts, runs, job.metrics, bar.update)
            estimator = Estimator(passes, wanted, method)
            for number, (table, coords) in enumerate(zip(request.cells, request.coords)):
                every = slice(0, len(coords[request.by[0]]))
                right = estimator.clean_right[:: job.draws]
                sheet.fill(prompts, number, every, estimator.run(table), right)
            sheet.attrs.update(_merged(sheet.attrs, estimator.notes))
    return sheet.dataset()


def _attrs(job: Job, method: Method, forwards: int, backwards: int) -> dict[str, Any]:
    attrs = result.provenance(
        job.request,
        job.budget.facts,
        job.task,
        job.metrics,
        job.direction,
        job.corruption,
        method.name,
        "autograd",
    )
    attrs |= {"forwards": forwards, "backwards": backwards, **method.attrs()}
    attrs["convention"] = "estimate of: " + attrs["convention"]
    if isinstance(method, AtpStar) and method.grad_drop:
        attrs["convention"] += "; magnitudes only (GradDrop), without a sign"
    return attrs


def _merged(attrs: dict[str, Any], notes: dict[str, float]) -> dict[str, float]:
    """The largest of every residual over the blocks so far."""
    return {name: float(np.maximum(value, attrs.get(name, 0.0))) for name, value in notes.items()}
