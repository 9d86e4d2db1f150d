"""Estimates of activation patching from a few passes: attribution patching and its relatives.

1. Run the source (what is patched in) and the base (what is patched into), the base with its graph.
2. The estimate of a cell is first order in the change of its activation,

       effect ≈ (a(source) - a(base)) · c,

   where the coefficient c is the slope of the metric in the base run, or a modified slope: see
   `interp.methods`. The passes of each method are in `_first_order` (gradients and relevance, integrated
   gradients), `_atp_star` and `secant`.
3. All cells of all sites come out of the same passes. Positive means that the cell helps the metric, as in
   `interp.patch`; dims, coordinates and attributes are the same, so that results subtract.

Nanda 2023 (attribution patching), Syed et al. 2310.10348, Hanna et al. 2403.17806 (ig), Kramár et al.
2403.00745 (atp*), RelP 2508.21258, Achtibat et al. 2402.05602 (attnlrp), Edin et al. 2505.17630 (gim).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from interp import results
from interp._verbs import verb, warn
from interp.ablation import Ablation, Constants
from interp.attribution._atp_star import paths_left
from interp.attribution._by_hooks import autograd_on
from interp.attribution._features import attribute_features
from interp.attribution._first_order import along_path, first_order
from interp.attribution._passes import (
    Estimated,
    Passes,
    at_once,
    logits_read,
    prompt_bytes,
    require_room,
)
from interp.attribution._scoring import scorings
from interp.attribution._tables import Place, places, read, summed
from interp.attribution.rules import check_hooks, check_rules
from interp.attribution.secant import secant
from interp.engine.cells import Cells
from interp.engine.runs import Runs
from interp.engine.trust import require_weights, slope_weights
from interp.experiment import MEMORY, Experiment, Metrics, prepare
from interp.grid import Grid, Sheet, make_grid
from interp.methods import IG, AtpStar, Method, Secant, parse
from interp.models import Anatomy, Model, anatomy, expert_points, unsupported
from interp.models.parts import Weights
from interp.patching._feature_cells import require_alone
from interp.places import SITES
from interp.sae import Dictionary
from interp.tasks import Task
from interp.tasks.check import warn_unsolved


@verb
def attribute(
    model: Model,
    task: Task,
    site: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    method: str | Method = "atp",
    cells: Sequence[str | Sequence[str]] | None = None,
    neurons: Sequence[int] | None = None,
    features: Dictionary | None = None,
    ablation: str | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    batch_size: int | None = None,
    memory: int = MEMORY,
    engine: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Estimated effect of patching every cell of a grid.

    model, task, site, by, neurons, ablation, direction, metric: as in `interp.patch`.
    method: "atp" (gradient), "ig" (integrated gradients), "atp*" (QK fix and GradDrop), "relp", "attnlrp" and
        "gim" (relevance rules), "secant" (two-point slopes); or a value of `interp.methods` with its options,
        such as IG(steps=16) or Relp(ah=False).
    cells: instead of a grid, a list of cells by name; one place each.
    features: a dictionary, whose features (and error) are the cells, as in `interp.patch`; method "atp", or
        "ig" (along the straight line at the site). They add up to the estimate of the whole site; the
        attribute `error_share` is the error's part of it. batch_size: prompts at once at most; by default
        as many as `memory` allows. memory: bytes to use above the model's own; where the graph of one prompt
        does not fit, that of one block at a time is held, at the price of a forward more for each backward.
    engine: "fast" makes the passes by the model's weights (an error where these do not give its logits and
        the activations asked for), "reference" through the model itself under hooks, "auto" the first where
        it can; `attrs["engine"]` says which. "secant" and features go through the model.
    progress: one bar, counting passes.

    Returns a Dataset as `interp.patch` does: `value` [prompt, (site,) dims of `by`, (metric)] in units of the
    metric, positive where the cell helps; `clean`, `corrupt`, `clean_right`. With GradDrop values are
    magnitudes, without a sign.

    Cost, by prompt: two forwards, and one backward for every metric ("ig": 2 + steps forwards and steps
    backwards; "atp*": one backward for every layer), whatever the number of sites and cells.
    Raises ValueError for anything wrong with the request before the first forward pass, and at the first pass
    for a site that no gradient reaches. Warns `UnsolvedTask` as `interp.patch` does. Papers: see the module.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> estimate = interp.attribute(model, task, "z", method="relp", progress=False)
        >>> estimate["value"].dims, estimate["value"].shape
        (('prompt', 'layer', 'head'), (4, 3, 4))
        >>> estimate.attrs["forwards"], estimate.attrs["backwards"]
        (2, 1)
    """
    chosen = parse(method)
    with torch.inference_mode(False), torch.no_grad():
        facts = anatomy(model)
        check_hooks(model)
        experiment = prepare(
            model, task, ablation=ablation, direction=direction, metric=metric, batch_size=batch_size,
            memory=memory, engine=engine, progress=progress,
        )  # fmt: skip
        if features is not None:
            require_alone(site, 1, neurons)
            result = attribute_features(experiment, features, chosen, by, cells)
            warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
            return result
        chosen.check(experiment.metric, experiment.contrast.ablation, experiment.contrast.direction)
        grid = make_grid(facts, task, site, by, cells, neurons=neurons)
        chosen = _fitted(experiment, grid, chosen)
        if experiment.budget.engine != "reference" and not chosen.needs_weights:
            least = experiment.draws * _bytes(experiment, grid, chosen)[1]
            require_room(memory, least, task.clean.shape[1])
        runs = experiment.runs(grid.all_sites).outside_inference()
        weights = _weights(experiment, grid, chosen, runs)
    with expert_points(model, grid.all_sites):
        result = _Estimation(experiment, grid, chosen, runs, weights).run()
    warn_unsolved(float(result["clean_right"].mean()), metric=(task.metric, *experiment.metric))
    return result


def _weights(experiment: Experiment, grid: Grid, method: Method, runs: Runs) -> Weights | None:
    """The weights that passes go by; None where they go through the model."""
    model, engine = experiment.model, experiment.budget.engine
    check_rules(model, method.rules)
    if method.needs_weights:
        if engine == "fast":
            raise ValueError(
                f"method {method.name!r} goes through the model itself. Use engine='auto' or 'reference'."
            )
        require_weights(model, runs.base, runs.lengths, what=f"method {method.name!r}")
        return None
    return slope_weights(model, runs.base, runs.lengths, sites=grid.all_sites, engine=engine)


def _fitted(experiment: Experiment, grid: Grid, method: Method) -> Method:
    """The method as it can be applied to the model. ValueError where it cannot, or has no such cells."""
    model, facts = experiment.model, experiment.facts
    if isinstance(experiment.contrast.ablation, Constants):
        raise ValueError(
            "constants stand for what the writers of a circuit write, and a patch replaces activations. "
            "Use ablation='resample', 'gaussian', 'zero' or 'mean'."
        )
    if not grid.table.single:
        raise ValueError(
            "a cell of several patches has no estimate of its own: one patch can cut the path of another, so "
            "estimates do not add up. Ask for the places one by one, or use interp.patch."
        )
    if method.needs_weights and (reason := unsupported(model)):
        raise ValueError(
            f"method {method.name!r} has to know every step of the model, and does not: {reason}. Use a "
            "method that needs only slopes (atp, ig, relp)."
        )
    if isinstance(method, AtpStar):
        method = _drops(method, facts)
        if method.qk_fix and {"q", "k"} & set(grid.all_sites):
            _check_queries_and_keys(model, facts)
    return method


def _drops(method: AtpStar, facts: Anatomy) -> AtpStar:
    """Without GradDrop where the model has a single layer, which cannot be dropped."""
    fitted = method.on(facts.n_layers)
    if fitted != method:
        warn(
            "GradDrop drops one layer at a time, and the model has only one: atp* runs without it, and its "
            "estimates keep their sign."
        )
    return fitted


def _check_queries_and_keys(model: Model, facts: Anatomy) -> None:
    for scoring in scorings(model, facts):
        if scoring.shared_norm:
            raise ValueError(
                "queries and keys of all heads are normed together in this model, so patching one head moves "
                "every pattern and the QK fix has no closed form. Use AtpStar(qk_fix=False)."
            )


@dataclass(frozen=True, eq=False)
class _Estimation:
    """A method on the grid of an experiment; `runs` holds each prompt's draws side by side."""

    experiment: Experiment
    grid: Grid
    method: Method
    runs: Runs
    weights: Weights | None

    def run(self) -> xr.Dataset:
        """Block by block of prompts."""
        experiment, grid = self.experiment, self.grid
        n, draws = len(experiment.task), experiment.draws
        block, by_block = self._block()
        forwards, backwards = self._cost()
        sheet = Sheet(experiment, grid, self._attrs())
        wanted = sorted({at for cells in grid.cells for at in places(cells)})
        starts = range(0, n, block)
        with tqdm(
            total=len(starts) * (forwards + backwards),
            disable=not experiment.budget.progress,
            desc=self.method.name,
            unit="pass",
        ) as bar:
            for start in starts:
                prompts = slice(start, min(start + block, n))
                runs = self.runs.take(slice(prompts.start * draws, prompts.stop * draws))
                passes = Passes(experiment, runs, bar.update, self.weights, by_block)
                estimates = _Estimates(passes, wanted, self.method)
                for number, (cells, coords) in enumerate(zip(grid.cells, grid.coords)):
                    every = slice(0, len(coords[grid.by[0]]))
                    right = estimates.clean_right[::draws]
                    sheet.fill(prompts, number, every, estimates.read(cells), right)
                sheet.attrs.update(_largest(sheet.attrs, estimates.notes))
        return sheet.dataset()

    def _cost(self) -> tuple[int, int]:
        """Forwards and backwards of a block."""
        forwards, backwards = self.method.cost(self.experiment.facts.n_layers)
        return forwards, backwards * len(self.experiment.metric)

    def _attrs(self) -> dict[str, Any]:
        experiment, (forwards, backwards) = self.experiment, self._cost()
        attrs = results.attrs(experiment, method=self.method.name, site=", ".join(self.grid.all_sites))
        attrs |= {"window": 1, "engine": "reference" if self.weights is None else "fast"}
        attrs["draws"] = experiment.draws
        attrs |= {"forwards": forwards, "backwards": backwards, **self.method.attrs()}
        attrs["convention"] = "estimate of: " + attrs["convention"]
        if isinstance(self.method, AtpStar) and self.method.grad_drop:
            attrs["convention"] += "; magnitudes only (GradDrop), without a sign"
        return attrs

    def _block(self) -> tuple[int, bool]:
        """Prompts at once, at most `batch_size` runs where the caller gave it; whether block by block."""
        batch_size, draws = self.experiment.budget.batch_size, self.experiment.draws
        whole, by_block = (draws * each for each in _bytes(self.experiment, self.grid, self.method))
        by_block = whole if self.weights is None else by_block
        room, cut = at_once(self.experiment.budget.memory, whole, by_block)
        return room if batch_size is None else max(1, min(room, batch_size // draws)), cut


def _bytes(experiment: Experiment, grid: Grid, method: Method) -> tuple[int, int]:
    """Bytes of one run with its whole graph, and with that of one block at a time."""
    facts, n_metrics = experiment.facts, len(experiment.metric)
    n_tables = method.cost(facts.n_layers)[1] if isinstance(method, AtpStar) else 1
    given = experiment.room.item_size, experiment.task.clean.shape[1], grid.all_sites, n_metrics, n_tables
    return prompt_bytes(facts, *given), prompt_bytes(
        facts, *given, by_block=True, n_logits=logits_read(experiment)
    )


def _apply(passes: Passes, wanted: Sequence[Place], method: Method) -> Estimated:
    if isinstance(method, IG):
        return along_path(passes, wanted, method)
    if isinstance(method, Secant):
        return secant(passes, wanted)
    return first_order(passes, wanted, method)


@dataclass(frozen=True, eq=False)
class _Effects:
    """Estimated changes of the metrics [cell, prompt, metric]; the metrics of both runs [prompt, metric]."""

    change: np.ndarray
    base: np.ndarray
    source: np.ndarray


class _Estimates:
    """The estimates of some prompts, ready to be read for any cells of the places asked."""

    def __init__(self, passes: Passes, wanted: Sequence[Place], method: Method) -> None:
        with autograd_on():
            estimated = _apply(passes, wanted, method)
        spans = None if passes.runs.spans is None else passes.runs.spans.cpu().numpy()
        self.tables = [
            {at: summed(at[0], table.cpu().numpy(), spans) for at, table in each.items()}
            for each in estimated.tables
        ]
        self.base, self.source = estimated.base.cpu().numpy(), estimated.source.cpu().numpy()
        self.clean_right = passes.by.clean_right(estimated.clean)
        self.notes = estimated.notes
        self.experiment = passes.experiment
        self.magnitudes = isinstance(method, AtpStar) and method.grad_drop

    def read(self, cells: Cells) -> _Effects:
        """The estimate of every cell."""
        changes = [read(tables, cells) for tables in self.tables]
        change = self._magnitude(changes, cells) if self.magnitudes else changes[0]
        return _Effects(change, self.base, self.source)

    def _magnitude(self, changes: list[np.ndarray], cells: Cells) -> np.ndarray:
        """Mean |estimate| over the layers dropped, with the sign that makes an effect positive."""
        n_layers = self.experiment.facts.n_layers
        paths = np.array([paths_left(SITES[site], n_layers) for site in cells.site])  # one row a cell
        by_cell = np.empty(len(cells))
        by_cell[cells.cell] = paths
        total = np.sum([np.abs(change) for change in changes], 0)
        return self.experiment.signs * total / by_cell[:, None, None]


def _largest(attrs: Mapping[str, Any], notes: dict[str, float]) -> dict[str, float]:
    """The largest of every residual over the blocks so far."""
    return {name: float(np.maximum(value, attrs.get(name, 0.0))) for name, value in notes.items()}
