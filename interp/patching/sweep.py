"""Exact activation patching: run the model with one activation replaced, for every cell of a grid.

1. Take a clean and a corrupt prompt of equal length; measure the metric on both runs.
2. For every cell (a site at a layer, and a position, head or neuron) run one with that activation from the
   other. Denoising puts clean into corrupt (is the cell sufficient?), noising corrupt into clean (is it
   necessary?).
3. The effect is metric(patched) - metric(corrupt), or metric(clean) - metric(patched): positive means that
   the cell helps the metric.

Wang et al. 2022 (2211.00593), Zhang & Nanda 2023 (2309.16042), Heimersheim & Nanda 2024 (2404.15255).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr

from interp.engine.choose import choose
from interp.engine.memory import DEFAULT_BUDGET
from interp.engine.plan import Plan, make_plan
from interp.models import Model, unsupported
from interp.patching.corruption import Corruption
from interp.patching.job import prepare
from interp.patching.work import run
from interp.tasks import Task
from interp.tasks.check import warn_unsolved
from interp.tasks.metrics import Metric


def patch(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    cells: Sequence[str | Sequence[str]] | None = None,
    direction: str | None = None,
    metrics: Metric | Sequence[Metric] | None = None,
    corruption: str | Corruption = "tokens",
    window: int = 1,
    neurons: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: int = DEFAULT_BUDGET,
    store: str | Path | None = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Exact effect of patching every cell of a grid.

    model: a TransformerLens model in eval mode; left as found.
    task: clean and corrupt prompts, answers, metric.
    site: `resid_pre resid_mid resid_post attn_out mlp_out` (default dims layer, pos), `z q k v pattern`
        (layer, head), `post` (layer, neuron: MLP activations), or several sites with the same dims.
    by: the dims of the grid: "layer" and any axes of the site (pos; pos, head; head, dst, src; pos, neuron).
        Along an axis left out, a cell covers everything.
    cells: instead of a grid, a list of cells by name ("L9H6", "L9H6.q@3", "L3.resid_pre@5", "L2N17"); a list
        within the list is patched together.
    direction: "denoise" (the default) or "noise"; ablations only "noise".
    metrics: one or several; the task's own by default.
    corruption: "tokens", "gaussian", "zero", "mean", or a settings object of `interp.patching.corruption`.
    window: patch the site at this many layers at once, from `layer` on.
    neurons: which neurons, for dims with "neuron".
    batch_size: counterfactual runs at once at most; by default as many as `memory` allows.
    memory: bytes to use above the model's own.
    store: a zarr folder, written as the sweep goes; the same call after a kill resumes.
    engine: "auto" (fast if it proves itself on this model, else reference), "fast" or "reference".
    progress: one bar, counting counterfactual runs.

    Returns a Dataset: `value`, the effect in units of the metric, with dims prompt, (site,) the dims of `by`,
    (metric); `clean` and `corrupt`, the raw metric of both runs by prompt; `clean_right`, 1 where the clean
    run gives the answers more probability than the wrong answers (whatever the metric), else 0. For metrics
    where lower is better (KL, Rank, Loss) the effect's sign is turned, so that positive always helps.

    Cost: two forwards per prompt, and for each cell that can matter the layers after it at the positions
    after it (`interp.plan` counts); engine "reference" one forward per cell and prompt.
    Raises ValueError for anything wrong with the request, before the first forward pass. Warns
    `UnsolvedTask`, with the accuracy, when fewer than half of the clean runs are right.
    """
    options = {"by": by, "cells": cells, "window": window, "neurons": neurons, "metrics": metrics}
    with torch.inference_mode():
        job = prepare(model, task, site, direction, corruption, batch_size, memory, **options)
        engine = choose(model, job.runs, job.request.table, job.metrics, job.budget, engine)
        result = run(job, engine, store, progress)
    warn_unsolved(float(result["clean_right"].mean()))
    return result


def plan(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    cells: Sequence[str | Sequence[str]] | None = None,
    direction: str | None = None,
    metrics: Metric | Sequence[Metric] | None = None,
    corruption: str | Corruption = "tokens",
    window: int = 1,
    neurons: Sequence[int] | None = None,
    batch_size: int | None = None,
    memory: int = DEFAULT_BUDGET,
    engine: str = "auto",
) -> Plan:
    """What `patch` with the same arguments would cost: cells, no-ops, FLOPs, memory, engine. No forward pass.

    (For mean ablation the means are not computed either.) Raises the same errors as `patch`.
    """
    options = {"by": by, "cells": cells, "window": window, "neurons": neurons, "metrics": metrics}
    with torch.inference_mode():
        job = prepare(model, task, site, direction, corruption, batch_size, memory, dry=True, **options)
        reason = unsupported(model)
        chosen = "reference" if engine == "reference" or reason else "fast"
        gated = bool(getattr(model.cfg, "gated_mlp", False))
        every = job.request.table
        return make_plan(job.budget.facts, gated, every, job.reads, job.budget, chosen, reason or "")
