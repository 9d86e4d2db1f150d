"""A score for every edge: what cutting it does to the metric, measured or estimated.

    score(u→v) = (a_u(base) − a_u(alt)) · slope of the metric at v's input, before the norm

with the sign that makes positive mean "the edge helps" (see `edge_methods.py` for the slopes):

1. Run the source (what cut edges carry) and the base (for direction "noise" the clean prompts), keeping what
   every writer writes.
2. One backward pass from the metric to the queries, keys, values and MLP pre-activations of the base run;
   from there back through the weights and the norm in closed form, to the stream that each reader sees.
3. All products of a layer's readers with the writers before them are one matrix product for each prompt.

EAP: Syed et al. 2310.10348. EAP-IG: Hanna et al. 2403.17806. RelP: 2508.21258. Flow routes: Ferrando & Voita
2403.00824. `exact` cuts every edge: Conmy et al. 2304.14997. Secant slopes: `interp.attribution.secant`.
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribution.capture import ruled
from interp.attribution.checks import check_model as check_hooks
from interp.circuits import edge_methods
from interp.circuits.ablation import Ablation
from interp.circuits.ablation import parse as parse_ablation
from interp.circuits.checks import check_direction, check_model, the_metric
from interp.circuits.edge_methods import EdgeMethod, check_method
from interp.circuits.edge_scoring import Scoring
from interp.circuits.exact import exact
from interp.circuits.flow_routes import flow_routes
from interp.circuits.graph import Graph
from interp.circuits.job import Job
from interp.circuits.spans import Spans
from interp.engine.memory import DEFAULT_BUDGET, Budget
from interp.models import Model, weights
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

    Cost, by prompt: two forwards and one backward ("eap-ig": `edge_methods.py`; "exact": the layers after
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
        return Job(weights(model), Spans(graph), runs, metric, replaced, budget)


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
