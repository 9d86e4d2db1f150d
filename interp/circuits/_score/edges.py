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
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import methods
from interp._verbs import verb
from interp.ablation import Ablation
from interp.attribution._passes import require_room
from interp.attribution.rules import check_hooks, check_rules
from interp.circuits._graph import Graph
from interp.circuits._run.job import Job, check_positions, prepare, start
from interp.circuits._score.estimates import Scoring
from interp.circuits._score.exact import exact_edges, exact_nodes, parcel_of
from interp.circuits._score.flow_routes import flow_routes
from interp.circuits._score.passes import sizes
from interp.circuits._score.result import averaged, of_nodes
from interp.experiment import MEMORY, Budget, Experiment, Metrics
from interp.methods import Exact, FlowRoutes, Method, Secant
from interp.models import Model
from interp.places import hint
from interp.tasks import Task


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
