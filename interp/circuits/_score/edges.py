"""A score for every edge: what cutting it does to the metric, measured or estimated.

    score(u→v) = (a_u(base) − a_u(alt)) · slope of the metric at v's input, before the norm

with the sign that makes positive mean "the edge helps" (see `methods.py` for the slopes):

1. Run the source (what cut edges carry) and the base (for direction "noise" the clean prompts), keeping what
   every writer writes.
2. One backward pass from the metric to the queries, keys, values and MLP pre-activations of the base run;
   from there back through the weights and the norm in closed form, to the stream that each reader sees.
3. All products of a layer's readers with the writers before them are one matrix product for each prompt.

EAP: Syed et al. 2310.10348. EAP-IG: Hanna et al. 2403.17806. RelP: 2508.21258. Flow routes: Ferrando & Voita
2403.00824. `exact` cuts every edge: Conmy et al. 2304.14997. Secant slopes: `interp.attribution.secant`.

Integrated gradients come in the variants of their published code:

| variant         | slopes are averaged over                                                              |
|-----------------|---------------------------------------------------------------------------------------|
| inputs          | runs whose input (the stream before the first block) is base + α (source − base)       |
| activations     | for the edges out of a part (the input, the heads of a layer, an MLP): runs in which    |
|                 | that part writes base + α (source − base), and all before it what it writes in the base |
| clean-corrupted | the two runs                                                                          |

For "inputs", `rule="left"` and direction "noise" the points are those of the published code, which leaves out
the corrupt end. Its "activations" averages the slopes of the runs of all parts for every edge; here each edge
has its own, so that the edges out of a part add up to the effect of replacing it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.attribution._passes import autograd_on, prompt_bytes
from interp.attribution.rules import check_hooks, ruled
from interp.circuits._graph import Graph, Spans
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.ablation import parse as parse_ablation
from interp.circuits._run.job import Job, check_direction, check_model, the_metric, trusted_weights
from interp.circuits._score import methods as edge_methods
from interp.circuits._score.exact import exact
from interp.circuits._score.flow_routes import flow_routes
from interp.circuits._score.methods import EdgeMethod, check_method
from interp.circuits._score.passes import INPUT, EdgePasses, Passed, Place, run_base, run_secant
from interp.circuits._score.result import scored_edges
from interp.circuits._score.sums import Sums
from interp.engine.memory import DEFAULT_BUDGET, Budget
from interp.methods import IG
from interp.models import Model
from interp.patching.result import signs
from interp.tasks import Task
from interp.tasks.metrics import Metric


def score_edges(
    model: Model,
    task: Task,
    method: str = "eap",
    *,
    ablation: str | Float[Tensor, "writer d_model"] | Ablation = "resample",
    direction: str = "noise",
    metric: Metric | None = None,
    positions: bool = False,
    batch_size: int | None = None,
    memory: int = DEFAULT_BUDGET,
    progress: bool = False,
    **options: Any,
) -> xr.Dataset:
    """The effect of every edge on the metric.

    method: "eap", "eap-ig", "relp", "secant" (estimates), "flow-routes" (shares of each reader's input,
        without metric or corruption), or "exact" (every edge is cut).
    ablation: what a cut edge carries: "resample", "zero", "mean", or constants [writer, d_model].
    direction: "noise" (the clean run, edges cut) or "denoise" (the corrupt run, edges brought in).
    metric: the task's own by default.
    positions: a score for each position (of the reader's input), in prompts of one length.
    batch_size: prompts at once at most; by default as many as `memory` (bytes above the model's own) allows.
    options: "eap-ig": variant ("inputs", "activations" or "clean-corrupted"), steps (8), rule ("midpoint",
        "gauss", or "left", that of published code); "relp": ln, identity, ah, half (see
        `interp.methods.Relp`).

    Returns a Dataset: `value` with dims prompt, (pos,) writer, reader, NaN where there is no edge; `clean`
    and `corrupt`, the raw metric of both runs. Positive: the edge helps.

    Cost, by prompt: two forwards and one backward ("eap-ig": `methods.py`; "exact": the layers after
    each edge's reader). Raises ValueError for anything wrong with the request, before the first forward pass.
    """
    chosen = edge_methods.parse(method, options)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None to fill the memory.")
    if method == "exact":
        return _exact(model, task, ablation, direction, metric, positions, memory, progress)
    check_direction(direction)
    if memory < 1:
        raise ValueError(f"memory is {memory} bytes; give a positive number, such as 2 * 2**30.")
    budget = Budget(check_model(model, task), memory, batch_size)
    check_hooks(model)
    if positions:
        check_positions(task)
    measure = the_metric(metric, task.metric)
    if method == "flow-routes":
        return flow_routes(model, task, measure, positions, budget, progress)
    job = _job(model, task, chosen, ablation, direction, measure, budget)
    return Scoring(model, task, job, chosen, direction, positions).run(progress)


def _job(
    model: Model,
    task: Task,
    method: EdgeMethod,
    ablation: str | Float[Tensor, "writer d_model"] | Ablation,
    direction: str,
    metric: Metric,
    budget: Budget,
) -> Job:
    """The request, checked; no forward pass, but for the means of a mean ablation."""
    graph = Graph.of(model)
    replaced = parse_ablation(ablation, graph, task, direction)
    check_method(method, model, metric, replaced, direction)
    with ruled(model, method.rules):  # raises for rules that the model has no place for
        pass
    with torch.inference_mode(False), torch.no_grad():
        runs = replaced.runs(model, task, direction).outside_inference()
        blocks = trusted_weights(model, budget.facts, runs)
        return Job(blocks, Spans(graph), runs, metric, replaced, budget)


def check_positions(task: Task) -> None:
    """Raise ValueError unless a position is the same place in every prompt."""
    if (task.lengths != task.lengths[0]).any() or (task.positions != task.positions[0]).any():
        raise ValueError(
            f"prompts differ in length ({int(task.lengths.min())} to {int(task.lengths.max())} tokens) or in "
            "the answer's position, so one position is not the same place in all of them. Give prompts of "
            "one length, or positions=False."
        )


def _exact(
    model: Model,
    task: Task,
    ablation: str | Float[Tensor, "writer d_model"] | Ablation,
    direction: str,
    metric: Metric | None,
    positions: bool,
    memory: int,
    progress: bool,
) -> xr.Dataset:
    if positions:
        raise ValueError(
            "method 'exact' cuts an edge at all positions at once. Use positions=False, or "
            "interp.circuits.run with masks [circuit, pos, writer, reader] for single positions."
        )
    return exact(
        model, task, ablation=ablation, direction=direction, metric=metric, memory=memory, progress=progress
    )


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


def integrated(passes: EdgePasses, sums: Sums, method: EdgeMethod) -> tuple[Tensor, Passed, Passed]:
    """Scores [prompt, (pos,) writer, reader], and the base and source runs."""
    source = passes.plain(source=True)
    if method.variant == "clean-corrupted":
        return _two_ends(passes, sums, source)
    base = passes.plain(source=False)
    out, clean = sums.zeros(), (base if passes.runs.clean_is_base else source).picked
    paths = [(INPUT, slice(None))] if method.variant == "inputs" else _parts(sums)
    for place, rows in paths:
        start = base.values[place]
        change = source.values[place] - start
        for alpha, weight in IG(method.steps, method.rule or "midpoint").points():
            run = passes.graph(clean, replaced={place: start + alpha * change})
            sums.add(out, base, source, run, weight, rows)
    return out, base, source


def _two_ends(passes: EdgePasses, sums: Sums, source: Passed) -> tuple[Tensor, Passed, Passed]:
    out = sums.zeros()
    clean = None if passes.runs.clean_is_base else source.picked
    base = passes.graph(clean)
    sums.add(out, base, source, base, 0.5)
    clean = base.picked if passes.runs.clean_is_base else None
    sums.add(out, base, source, passes.graph(clean, source=True), 0.5)
    return out, base, source


def _parts(sums: Sums) -> Iterator[tuple[Place, slice]]:
    """The places whose writes are interpolated, with their writers."""
    yield INPUT, slice(0, 1)
    for layer, block in enumerate(sums.weights.blocks):
        yield ("z", layer), sums.spans.heads(layer)
        if block.mlp is not None:
            mlp = sums.spans.mlp(layer)
            yield ("mlp_out", layer), slice(mlp, mlp + 1)
