"""Doing a job unit by unit: run, average the draws, write, go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from tqdm import tqdm

from interp.engine.fast import Outcome, Prepared
from interp.engine.reference import Reference
from interp.models import model_fingerprint, weights
from interp.patching import result
from interp.patching.job import Job
from interp.patching.sheet import Sheet
from interp.patching.store import Store, open_store


@dataclass(frozen=True, eq=False)
class Unit:
    """A block of prompts, one site, and a span of the first dim of its cells."""

    number: int
    prompts: slice
    site: int
    first: slice
    cells: np.ndarray


def _units(job: Job, engine: str, stored: bool) -> Iterator[Unit]:
    """The work in order; with a store one layer at a time (or 64 listed cells), else all layers together."""
    n = len(job.task)
    reads = job.reads
    columns = job.budget.facts.d_vocab if reads.columns is None else len(reads.columns)
    room = job.budget.prompts(job.runs.n_pos, job.request.all_sites, columns, reads.everywhere)
    block = max(1, room // job.draws) if engine == "fast" else min(n, 32)
    block = min(block, n)
    if stored and job.budget.batch_size is not None:
        block = max(1, min(block, job.budget.batch_size // job.draws))
    number = 0
    for start in range(0, n, block):
        prompts = slice(start, min(start + block, n))
        for site, (cells, coords) in enumerate(zip(job.request.cells, job.request.coords)):
            length = len(coords[job.request.by[0]])
            step = (1 if job.request.by[0] == "layer" else 64) if stored else length
            each = len(cells) // length
            for first in range(0, length, step):
                span = slice(first, min(first + step, length))
                yield Unit(number, prompts, site, span, np.arange(span.start * each, span.stop * each))
                number += 1


def run(job: Job, engine: str, store: str | Path | None, progress: bool) -> xr.Dataset:
    units = list(_units(job, engine, store is not None))
    facts, task, request = job.budget.facts, job.task, job.request
    attrs = result.provenance(
        request, facts, task, job.metrics, job.direction, job.corruption, "patch", engine
    )
    sheet = Sheet(job, attrs)
    opened = None if store is None else _open(store, job, sheet.dataset(), units, attrs)
    todo = units if opened is None else [unit for unit in units if not opened.done[unit.number]]
    total = sum((u.prompts.stop - u.prompts.start) * job.draws * len(u.cells) for u in todo)
    with tqdm(total=total, disable=not progress, desc="patch", unit="run") as bar:
        for unit, outcome, right in _outcomes(job, engine, todo, bar):
            parts = sheet.fill(unit.prompts, unit.site, unit.first, outcome, right)
            if opened is not None:
                opened.write(unit.number, sheet.squeezed(parts))
    return sheet.dataset() if opened is None else opened.load()


def _outcomes(
    job: Job, engine: str, units: list[Unit], bar: tqdm
) -> Iterator[tuple[Unit, Outcome, np.ndarray]]:
    """Run units in order; base and source runs are made once for each block of prompts."""
    start, ready, right = -1, None, np.empty(0)
    for unit in units:
        cells = job.request.cells[unit.site]
        if ready is None or start != unit.prompts.start:
            start, ready = unit.prompts.start, None  # the old one is freed before the new one is made
            ready = _ready(job, engine, unit.prompts)
            right = ready.clean_right()[:: job.draws]  # the clean run is the same in every draw
        some = cells if len(unit.cells) == len(cells) else cells.take(unit.cells)
        yield unit, ready.run(some, bar.update), right


def _ready(job: Job, engine: str, prompts: slice) -> Prepared | Reference:
    some = job.runs.take(slice(prompts.start * job.draws, prompts.stop * job.draws))
    sites = job.request.all_sites
    if engine == "fast":
        return Prepared(weights(job.model), some, sites, job.metrics, job.budget)
    return Reference(job.model, some, sites, job.metrics)


def _open(store: str | Path, job: Job, template: xr.Dataset, units: list[Unit], attrs: dict) -> Store:
    identity = {k: v for k, v in attrs.items() if k not in ("versions", "convention", "seed", "model")}
    identity["dims"] = ", ".join(job.request.by)
    identity["cells"] = [[str(v) for v in c.tolist()] for c in job.request.coords[0].values()]
    identity["variables"] = sorted(map(str, template.data_vars))
    identity["model_fingerprint"] = model_fingerprint(job.model)
    block = units[0].prompts.stop
    return open_store(
        store, template, identity, {"prompt": block, "layer": 1, "site": 1, "cell": 64}, len(units)
    )
