"""A score for every edge: what cutting it does to the metric, measured or estimated.

    score(u→v) = (a_u(base) − a_u(alt)) · slope of the metric at v's input, before the norm

with the sign that makes positive mean "the edge helps" (see `interp.methods` for the slopes):

1. Run the source (what cut edges carry) and the base (for direction "noise" the clean prompts), keeping what
   every writer writes.
2. One backward pass from the metric to the queries, keys, values and MLP pre-activations of the base run;
   from there back through the weights and the norm in closed form, to the stream that each reader sees.
3. All products of a layer's readers with the writers before them are one matrix product for each prompt.

Estimates are first order, so the score of a node is the sum of those of the edges out of it (for "eap" the
change of the writer's output times the slope of the metric in the stream after it). "exact" cuts all edges
out of a node at once, which is not the sum of their exact effects.

EAP: Syed et al. 2310.10348. EAP-IG: Hanna et al. 2403.17806. RelP: 2508.21258. EAP-GP: Zhang et al.
2502.06852. Flow routes: Ferrando & Voita 2403.00824. `exact` cuts every edge: Conmy et al. 2304.14997. Secant
slopes: `interp.attribution.secant`.

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

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp import methods
from interp._verbs import verb, warn
from interp.ablation import Ablation
from interp.attribution._by_hooks import autograd_on
from interp.attribution._passes import require_room
from interp.attribution.rules import check_hooks, check_rules
from interp.circuits._graph import Graph
from interp.circuits._run.job import Job, check_positions, prepare, start
from interp.circuits._score.exact import exact_edges, exact_nodes, parcel_of
from interp.circuits._score.flow_routes import flow_routes
from interp.circuits._score.passes import (
    INPUT,
    EdgePasses,
    Passed,
    Place,
    Sizes,
    run_base,
    run_secant,
    sizes,
)
from interp.circuits._score.result import averaged, of_nodes
from interp.circuits._score.sheet import Sheet
from interp.circuits._score.sums import Sums
from interp.experiment import MEMORY, Budget, Experiment, Metrics
from interp.methods import IG, Exact, FlowRoutes, GradPath, Method, Secant
from interp.models import Model
from interp.models.parts import Weights
from interp.places import hint
from interp.tasks import Task

_INCOMPLETE = 0.01  # of the metric's gap, for secant slopes


@verb
def score_edges(
    model: Model,
    task: Task,
    *,
    method: str | Method = "eap",
    positions: bool | str = False,
    by_prompt: bool = True,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """The effect of every edge on the metric.

    method: a value of `interp.methods` or its name: Atp() "eap", IG(steps, rule, variant) "eap-ig",
        GradPath(steps, stride) "eap-gp", Relp(...) "relp", Secant() "secant" (estimates), FlowRoutes()
        "flow-routes" (shares of each reader's input, without metric or ablation), or Exact() "exact" (every
        edge is cut).
    positions: a score for each position (of the reader's input), in prompts of one length; "span": for each
        of the task's named positions, in prompts of any length, NaN where one has no such span.
    by_prompt: False gives the mean over prompts alone (of prompts that have the span), which is all that
        `top` and its like read: one array of the graph however many prompts there are, for large models.
    ablation: what a cut edge carries: "resample", "zero", "mean", or constants [writer, d_model].
    direction: "noise" (the default: the clean run, edges cut) or "denoise" (the corrupt run, edges brought
        in).
    metric: one or several, the task's own by default.
    batch_size: prompts at once at most; by default as many as `memory` (bytes above the model's own) allows.
        Where the graph of one prompt does not fit, that of one block at a time is held, at the price of a
        forward more for each backward.
    store: a zarr folder that each prompt is written to as it is measured, and that `value` is read from when
        it is asked for: no array of all prompts is made. The same call after a kill goes on from there.
    workers, executor: of "exact", as in `interp.patch`; a unit is a prompt.
    engine: "fast" takes slopes by the model's weights, "reference" through the model itself under hooks,
        "auto" the first; `attrs["engine"]` says which. "secant" is the second, "exact" by the weights.

    Returns a Dataset: `value` with dims (prompt,) (pos,) writer, reader (and metric, if there are several),
    NaN where there is no edge, in the unit of the metric, positive where the edge helps; `clean` and
    `corrupt`, the raw metric of both runs.

    Cost, by prompt: two forwards, and one backward by metric ("eap-ig": see `interp.methods`; "exact": the
    layers after each edge's reader). Raises ValueError for anything wrong with the request, before the first
    forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> scores = interp.circuits.score_edges(model, task, method="eap-ig", progress=False)
        >>> scores["value"].dims
        ('prompt', 'writer', 'reader')
        >>> interp.circuits.top(scores, 40).n_edges
        40
    """
    chosen = methods.parse(method, over="edges")
    if store is not None and not by_prompt:
        raise ValueError(
            "store= keeps the scores of every prompt, and by_prompt=False none. Leave one of them out."
        )
    experiment = _prepared(
        model, task, chosen, positions, ablation=ablation, direction=direction, metric=metric,
        batch_size=batch_size, memory=memory, store=store, workers=workers, executor=executor, engine=engine,
        progress=progress,
    )  # fmt: skip
    return _scores(experiment, chosen, positions, by_prompt)


@verb
def score_nodes(
    model: Model,
    task: Task,
    *,
    method: str | Method = "eap",
    positions: bool | str = False,
    by_prompt: bool = True,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """The effect of every writer on the metric: of cutting all edges out of it.

    Arguments, cost and errors as for `score_edges`.

    Returns a Dataset: `value` with dims (prompt,) (pos,) writer (and metric, if there are several), in the
    unit of the metric, positive where the node helps; `clean` and `corrupt`, the raw metric of both runs.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> nodes = interp.circuits.score_nodes(model, interp.tasks.ioi(model, n=4), progress=False)
        >>> nodes["value"].dims, len(interp.circuits.top(nodes, 5).nodes())  # those, input and logits
        (('prompt', 'writer'), 7)
    """
    chosen = methods.parse(method, over="edges")
    experiment = _prepared(
        model, task, chosen, positions, ablation=ablation, direction=direction, metric=metric,
        batch_size=batch_size, memory=memory, engine=engine, progress=progress,
    )  # fmt: skip
    if isinstance(chosen, Exact):
        with torch.inference_mode():
            return averaged(exact_nodes(start(experiment)), by_prompt)
    return of_nodes(_scores(experiment, chosen, positions, by_prompt), Graph.of(model))


def _prepared(
    model: Model, task: Task, method: Method, positions: bool | str, **arguments: object
) -> Experiment:
    """The request, checked; no forward pass."""
    if isinstance(method, FlowRoutes):  # one clean run
        arguments |= {"ablation": "zero", "direction": "noise"}
    experiment = prepare(model, task, **arguments)
    contrast = experiment.contrast
    method.check(contrast.metric, contrast.ablation, contrast.direction, over="edges")
    _check_engine(method, experiment.budget.engine)
    _check_elsewhere(method, experiment.budget)
    if isinstance(method, Exact):
        if positions is not False:
            raise ValueError(
                "method 'exact' cuts an edge at all positions at once. Use positions=False, or "
                "interp.circuits.run with masks [circuit, pos, writer, reader] for single positions."
            )
        return experiment
    check_hooks(model)
    _check_positions(task, method, positions)
    check_rules(model, method.rules)
    if experiment.budget.engine != "reference" and not isinstance(method, (Secant, FlowRoutes)):
        n_pos = task.clean.shape[1]
        parts = len(task.spans) if positions == "span" else n_pos if positions else 1
        room = sizes(experiment.room, n_pos, Graph.of(model), len(contrast.metric), parts)
        require_room(experiment.budget.memory, room.least, n_pos)
    return experiment


def _check_engine(method: Method, engine: str) -> None:
    """Raise ValueError for an engine that a method does not have."""
    if isinstance(method, Exact) and engine == "reference":
        raise ValueError("method 'exact' goes by the model's weights. Use engine='auto' or 'fast'.")
    if isinstance(method, Secant) and engine == "fast":
        raise ValueError("method 'secant' goes through the model. Use engine='auto' or 'reference'.")


def _check_elsewhere(method: Method, budget: Budget) -> None:
    """Raise ValueError for workers of a method that takes a few passes, and a store of one that takes one."""
    if budget.elsewhere and not isinstance(method, Exact):
        raise ValueError(
            f"method {method.edge_name!r} takes a few passes, and workers= and executor= would not make them "
            "faster: they are for method='exact'. Leave them out."
        )
    if budget.store is not None and isinstance(method, FlowRoutes):
        raise ValueError("flow-routes are one pass of each prompt: leave out store=.")


def _check_positions(task: Task, method: Method, positions: bool | str) -> None:
    if isinstance(positions, bool):
        if positions:
            check_positions(task, "positions='span', or positions=False")
        return
    if positions != "span":
        raise ValueError(f"positions is {positions!r}; use True, False or 'span'{hint(positions, ['span'])}")
    if isinstance(method, FlowRoutes):
        raise ValueError("flow-routes are shares of an input at a position; use positions=True, or False.")
    if not task.spans:
        raise ValueError(
            "positions='span' needs named positions, and the task has none. Give spans= when building it, or "
            "use positions=True."
        )


def _scores(experiment: Experiment, method: Method, positions: bool | str, by_prompt: bool) -> xr.Dataset:
    if isinstance(method, Exact):
        return averaged(exact_edges(start(experiment), parcel_of(experiment)), by_prompt)
    with torch.inference_mode(False), torch.no_grad():
        job = Job.of(experiment, read=("q", "k", "v"))
        job = replace(job, runs=job.runs.outside_inference())
    if isinstance(method, FlowRoutes):
        return averaged(flow_routes(job, positions is True), by_prompt)
    return Scoring(job, method, positions, by_prompt).run()


@dataclass(frozen=True, eq=False)
class Scoring:
    """Estimates from slopes, block by block of prompts."""

    job: Job
    method: Method
    positions: bool | str
    by_prompt: bool = True

    def run(self) -> xr.Dataset:
        """All prompts."""
        job, graph, n, n_metrics = self.job, self.job.graph, len(self.job.runs), len(self.job.metric)
        by_span, spans = self.positions == "span", job.experiment.task.spans
        places = None if not self.positions else ("span", len(spans)) if by_span else ("pos", job.runs.n_pos)
        room = sizes(job.room, job.runs.n_pos, graph, n_metrics, 1 if places is None else places[1])
        room = room if self._weights is not None else room._replace(by_block=False)
        forwards, backwards = self.method.edge_cost(graph.n_layers, graph.attn_only)
        path = self.method.steps if isinstance(self.method, GradPath) else 0
        attrs = {"forwards": forwards, "backwards": backwards, **self.method.attrs()}
        attrs["engine"] = "fast" if self._weights is not None else "reference"
        sheet = Sheet(
            job, self.method.edge_name, attrs | {"positions": str(self.positions)}, places, self.by_prompt
        )
        notes: dict[str, float] = {}
        with sheet.opened():
            blocks, quiet = sheet.blocks(room.prompts), not job.experiment.budget.progress
            total = len(blocks) * (forwards + backwards * n_metrics + path)
            with tqdm(total=total, disable=quiet, desc=self.method.edge_name, unit="pass") as bar:
                for block in blocks:
                    scores, ends, more = self._block(block, room, bar.update)
                    sheet.take(block, self._signed(block, np.moveaxis(scores, 0, -1)), ends)
                    notes = {name: max(value, notes.get(name, 0.0)) for name, value in more.items()}
            whole = sum(block.stop - block.start for block in blocks) == n
            out = sheet.dataset(self._counts(n), **attrs, **(notes if whole else {}))
        out.attrs["convention"] = "estimate of: " + out.attrs["convention"]
        return out

    def _signed(
        self, block: slice, scores: Float[np.ndarray, "prompt *any metric"]
    ) -> Float[np.ndarray, "prompt *any metric"]:
        """The scores of a block as effects; by prompt, NaN for spans that one does not have."""
        effects = scores * self.job.experiment.signs + 0.0  # no -0.0
        if self.by_prompt and (present := self._present) is not None:
            effects[~present[block]] = np.nan
        return effects

    @property
    def _present(self) -> Bool[np.ndarray, "prompt span"] | None:
        """Which prompts have which spans, where these are kept apart."""
        if self.positions != "span" or self.job.runs.spans is None:
            return None
        return self.job.runs.spans.any(-1).cpu().numpy()

    def _counts(self, n: int) -> np.ndarray | int:
        """Prompts that a mean is over; of a span that none has it is NaN."""
        if (present := self._present) is None:
            return n
        counts = present.sum(0).astype(float)  # [span]
        return np.where(counts > 0, counts, np.nan)[:, None, None, None]

    @property
    def _weights(self) -> Weights | None:
        """The weights that passes go by; None where they go through the model."""
        by_hooks = isinstance(self.method, Secant) or self.job.experiment.budget.engine == "reference"
        return None if by_hooks else self.job.weights

    def _block(
        self, block: slice, room: Sizes, tick: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Scores, the metrics of base and source [2, prompt, metric], and what the method says of its own
        accuracy."""
        job, method = self.job, self.method
        runs, kind = job.runs.take(block), method.norms
        passes = EdgePasses(
            job.experiment.model,
            job.facts,
            runs,
            job.metric,
            tick,
            self._weights,
            isinstance(method, GradPath),
            room.by_block,
        )
        stop = int(passes.reads.stop.max())
        sums = Sums(job.weights, job.spans, runs, job.constants, stop, room.positions, self.positions, kind)
        with autograd_on():
            if isinstance(method, IG):
                out, base, source = _integrated(passes, sums, method)
            elif isinstance(method, GradPath):
                out, base, source = _descended(passes, sums, method)
            else:
                source, base = run_secant(passes) if kind == "secant" else run_base(passes, method.rules)
                out = sums.zeros(len(job.metric))
                sums.add(out, base, source, base)
        clean = (base if runs.clean_is_base else source).picked
        ends = torch.stack([passes.measure(run.picked, clean) for run in (base, source)])
        notes = dict(base.notes)
        if kind == "secant" and self.positions != "span":  # spans need not make up the prompt
            notes["completeness"] = _completeness(out, ends)
        return out.cpu().numpy(), ends.cpu().numpy(), notes


def _completeness(out: Float[Tensor, "metric prompt *any"], ends: Float[Tensor, "2 prompt metric"]) -> float:
    """By how much all edges out of the input together miss the metric's change, on the worst prompt."""
    gap = (ends[1] - ends[0]).T  # [metric, prompt]
    total = out[..., 0, :].flatten(2).sum(2)
    miss = (total - gap).abs().amax(1)  # [metric]
    worst = int((miss / gap.abs().amax(1).clamp(min=1e-300)).argmax())
    if float(miss[worst]) > _INCOMPLETE * float(gap[worst].abs().max()):
        warn(
            f"secant scores miss the metric's change by up to {float(miss[worst]):.2g} of "
            f"{float(gap[worst].abs().max()):.2g}: some step of the model is not covered, or precision is "
            "low."
        )
    return float(miss.max())


def _integrated(passes: EdgePasses, sums: Sums, method: IG) -> tuple[Tensor, Passed, Passed]:
    """Scores [metric, prompt, (pos,) writer, reader], and the base and source runs."""
    source = passes.plain(source=True)
    if method.variant == "clean-corrupted":
        return _two_ends(passes, sums, source)
    base = passes.plain(source=False)
    out = sums.zeros(len(passes.reads.metrics))
    clean = (base if passes.runs.clean_is_base else source).picked
    paths = [(INPUT, slice(None))] if method.variant == "inputs" else _parts(sums)
    for place, rows in paths:
        origin = base.values[place]
        change = source.values[place] - origin
        for alpha, weight in method.points():
            run = passes.graph(clean, replaced={place: origin + alpha * change})
            sums.add(out, base, source, run, weight, rows)
    return out, base, source


def _descended(passes: EdgePasses, sums: Sums, method: GradPath) -> tuple[Tensor, Passed, Passed]:
    """Slopes at the points of a path from the base input down to the source run's logits."""
    source, base = passes.plain(source=True), passes.plain(source=False)
    out = sums.zeros(len(passes.reads.metrics))
    clean = (base if passes.runs.clean_is_base else source).picked
    point = base.values[INPUT]  # [prompt, pos, d_model]
    stride = torch.tensor(method.stride or 0.0).to(point)
    if method.stride is None:
        stride = (source.values[INPUT] - point).flatten(1).norm(dim=1)[:, None, None] / method.steps
    for _ in range(method.steps):
        slope = passes.descent(point, source.picked)
        length = slope.flatten(1).norm(dim=1)[:, None, None]  # of each prompt alone
        point = point - stride * slope / length.where(length > 0, torch.ones_like(length))
        run = passes.graph(clean, replaced={INPUT: point})
        sums.add(out, base, source, run, 1 / method.steps)
    return out, base, source


def _two_ends(passes: EdgePasses, sums: Sums, source: Passed) -> tuple[Tensor, Passed, Passed]:
    out = sums.zeros(len(passes.reads.metrics))
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
