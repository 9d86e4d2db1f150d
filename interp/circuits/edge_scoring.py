"""Scores of edges block by block of prompts: how many at once, what each method runs, and the result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp.attribution.capture import autograd_on
from interp.attribution.memory import prompt_bytes
from interp.circuits.edge_ig import integrated
from interp.circuits.edge_methods import EdgeMethod
from interp.circuits.edge_passes import EdgePasses, run_base, run_secant
from interp.circuits.edge_scored import scored_edges
from interp.circuits.edge_sums import Sums
from interp.circuits.edge_writes import check_writes
from interp.circuits.graph import Graph
from interp.circuits.job import Job
from interp.engine.memory import Budget
from interp.models import Model
from interp.patching.result import signs
from interp.tasks import Task

_INCOMPLETE = 0.01  # of the metric's gap, for secant slopes


@dataclass(frozen=True, eq=False)
class Scoring:
    """A checked request."""

    model: Model
    task: Task
    job: Job
    method: EdgeMethod
    direction: str
    positions: bool

    def run(self, progress: bool) -> xr.Dataset:
        """Block by block of prompts."""
        job, graph, n = self.job, self.job.graph, len(self.task)
        pos = (job.runs.n_pos,) if self.positions else ()
        values = np.zeros((n, *pos, len(graph.writers), len(graph.readers)))
        ends = np.empty((2, n))
        notes: dict[str, float] = {}
        size, at_once = sizes(job.budget, job.runs.n_pos, graph)
        starts = range(0, n, size)
        forwards, backwards = self.method.cost(graph)
        with tqdm(
            total=len(starts) * (forwards + backwards),
            disable=not progress,
            desc=self.method.name,
            unit="pass",
        ) as bar:
            for start in starts:
                block = slice(start, min(start + size, n))
                values[block], ends[:, block], more = self._block(block, at_once, bar.update)
                notes = {name: max(value, notes.get(name, 0.0)) for name, value in more.items()}
        values = values * signs((job.metric,), self.direction)[0] + 0.0  # no -0.0
        clean, corrupt = ends if job.runs.clean_is_base else ends[::-1]
        attrs = {"forwards": forwards, "backwards": backwards, **self.method.attrs(), **notes}
        found = scored_edges(
            values, clean, corrupt, job, self.task, self.direction, method=self.method.name, **attrs
        )
        found.attrs["convention"] = "estimate of: " + found.attrs["convention"]
        return found

    def _block(
        self, block: slice, at_once: int, tick: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Scores, the metric of base and source [2, prompt], and what the method says of its own accuracy."""
        job, method = self.job, self.method
        runs = job.runs.take(block)
        passes = EdgePasses(self.model, job.budget.facts, runs, job.metric, tick)
        stop, kind, constants = int(passes.scores.reads.stop.max()), method.norms, job.ablation.constants
        sums = Sums(job.weights, job.spans, runs, constants, stop, at_once, self.positions, kind)
        with autograd_on():
            if method.name == "eap-ig":
                out, base, source = integrated(passes, sums, method)
            else:
                source, base = run_secant(passes) if kind == "secant" else run_base(passes, method)
                out = sums.zeros()
                sums.add(out, base, source, base)
        if block.start == 0:
            check_writes(job.weights, base, job.budget.facts.name)
        clean = (base if runs.clean_is_base else source).picked
        ends = torch.stack([passes.measure(run.picked, clean) for run in (base, source)])
        notes = dict(base.notes)
        if kind == "secant":
            notes["completeness"] = _completeness(out, ends)
        return out.cpu().numpy(), ends.cpu().numpy(), notes


def sizes(budget: Budget, n_pos: int, graph: Graph) -> tuple[int, int]:
    """How many prompts, and how many positions at once: edges hold at most half of what a run holds."""
    f = budget.facts
    sites = tuple(site for site in ("z", "mlp_out", "resid_pre", "resid_mid", "q") if site in f.sites())
    run = prompt_bytes(f, budget.item_size, n_pos, sites, 1, 0)
    edges = budget.item_size * f.d_model * (len(graph.writers) + 4 * f.n_heads)  # a position
    scores = 8 * 3 * len(graph.writers) * len(graph.readers)
    at_once = max(1, int(run / 2 / edges))
    prompts = max(1, int(budget.limit // (1.5 * run + scores)))
    return prompts if budget.batch_size is None else min(prompts, budget.batch_size), at_once


def _completeness(out: Tensor, ends: Tensor) -> float:
    """By how much all edges out of the input together miss the metric's change, on the worst prompt."""
    gap = ends[1] - ends[0]
    found = out[..., 0, :].flatten(1).sum(1)
    miss = float((found - gap).abs().max())
    if miss > _INCOMPLETE * float(gap.abs().max()):
        warnings.warn(
            f"secant scores miss the metric's change by up to {miss:.2g} of {float(gap.abs().max()):.2g}: "
            "some step of the model is not covered, or precision is low.",
            UserWarning,
            stacklevel=2,
        )
    return miss
