"""Estimates for features of a dictionary: the change of a feature times the slope of the metric along it.

1. Run source and base; take the site apart in both (`sae._site`).
2. With g the slope of the metric at the site in the base run, the estimate of feature i is (φ'_i − φ_i) d_i
· g,
   that of the error (ε' − ε) · g. Nothing flows through the encoder: the site is linear in φ and ε.
3. So estimates add up to (x' − x) · g, the estimate of the whole site, also over features that are off in
the base
   run. Integrated gradients take the mean slope on the straight line from (φ, ε) to (φ', ε') at the site,
   and add up to the metric's change as the number of points grows.

The share of the error is in the attributes: what a dictionary does not explain is not found in its features.
Marks et al. 2403.19647.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp import results
from interp.attribution._by_hooks import autograd_on, record
from interp.attribution._passes import Passes, Plain, prompt_bytes
from interp.engine.readout import Scores
from interp.engine.reference import finite_hooks
from interp.experiment import Experiment
from interp.grid import Grid, Sheet
from interp.methods import IG, Atp, Method
from interp.models.hook_points import patch_hooks, slope_hook
from interp.patching._feature_cells import Request, asked, feature_grid, feature_runs, labelled
from interp.sae._dictionary import Dictionary
from interp.sae._site import ERROR, Site, site_name


def attribute_features(
    experiment: Experiment,
    dictionary: Dictionary,
    method: Method,
    by: str | Sequence[str] | None,
    cells: Sequence[str | Sequence[str]] | None,
) -> xr.Dataset:
    """`interp.attribute` of features. Raises ValueError for methods that have no meaning for them."""
    if not isinstance(method, (Atp, IG)):
        raise ValueError(
            f"method {method.name!r} has no form for features of a dictionary. Use 'atp' or 'ig', or "
            "interp.patch."
        )
    if experiment.budget.engine == "fast":
        raise ValueError("features go through the model itself. Use engine='auto' or 'reference'.")
    request = asked(experiment, dictionary, by, cells)
    if request.cells is not None and any(len(cell) > 1 for cell in request.cells):
        raise ValueError(
            "estimates add up: ask for features one by one, or patch them together (interp.patch)."
        )
    return _Estimation(experiment, dictionary, method, request).run()


class _Estimation:
    """A method on features of a dictionary, block by block of prompts."""

    def __init__(
        self, experiment: Experiment, dictionary: Dictionary, method: Atp | IG, request: Request
    ) -> None:
        self.experiment, self.dictionary, self.method, self.request = experiment, dictionary, method, request
        self.site = Site(experiment, dictionary)

    def run(self) -> xr.Dataset:
        """Tables [prompt draw, pos, feature + 1, metric] of all prompts, then the cells."""
        experiment, draws = self.experiment, self.experiment.draws
        n, size = len(experiment.task), self._size()
        starts = range(0, n, size)
        forwards, backwards = self._cost()
        with tqdm(
            total=len(starts) * (forwards + backwards),
            disable=not experiment.budget.progress,
            desc=self.method.name,
            unit="pass",
        ) as bar:
            every = feature_runs(experiment).outside_inference()
            blocks = []
            for start in starts:
                prompts = slice(start, min(start + size, n))
                runs = every.take(slice(prompts.start * draws, prompts.stop * draws))
                blocks.append((prompts, *self._block(Passes(experiment, runs, bar.update))))
        features = self._features([table for _, table, *_ in blocks])
        grid = feature_grid(experiment.task, self.dictionary, self.request, features)
        sheet = Sheet(experiment, grid, self._attrs([table for _, table, *_ in blocks]))
        spans = None if every.spans is None else every.spans.cpu().numpy()
        for prompts, table, base, source, right in blocks:
            some = None if spans is None else spans[prompts.start * draws : prompts.stop * draws]
            measured = _Measured(_cells(table, grid, features, some), base, source)
            whole = slice(0, len(grid.coords[0][grid.by[0]]))
            sheet.fill(prompts, 0, whole, measured, right[::draws])
        return labelled(sheet.dataset(), self.dictionary, features)

    def _block(self, passes: Passes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The table of some prompts, metrics of base and source, and where the clean run is right."""
        site, ends = self.site, list(dict.fromkeys(self.site.ends))
        with torch.no_grad():
            source, base = passes.source(ends), passes.base(ends)
            mine = site.parts(base.values)
            put = site.replacement(site.parts(source.values))
            phi, error = put.phi - mine.phi, put.error - mine.error
        clean = passes.clean(base.picked, source.picked)
        with autograd_on():
            slope = self._slope(passes, base, phi, error, clean)  # [prompt, pos, width, metric]
        with torch.no_grad():
            along = torch.einsum("fd,npdm->npfm", self.site.rows.to(slope), slope)
            rest = torch.einsum("npd,npdm->npm", error.to(slope), slope)[:, :, None]
            table = torch.cat((phi.to(slope)[..., None] * along, rest), 2)
            low, high = (passes.measure(run.picked, clean).cpu().numpy() for run in (base, source))
        first = passes.runs.first_change()
        n_pos = table.shape[1]
        first = first if passes.facts.causal else torch.where(first < n_pos, 0, n_pos)
        later = torch.arange(n_pos, device=first.device)[None] >= first[:, None]
        table = table.masked_fill(~later[..., None, None], 0.0)
        return table.cpu().numpy(), low, high, passes.by.clean_right(clean)

    def _slope(self, passes: Passes, base: Plain, phi: Tensor, error: Tensor, clean: Tensor) -> Tensor:
        """The slope at the site, or its mean along the line between both runs, in float64."""
        points = self.method.points() if isinstance(self.method, IG) else [(0.0, 1.0)]
        x = base.values[self.site.ends[1]]
        change = (phi @ self.site.rows.to(phi) + error).reshape(x.shape).to(x)
        slopes = []
        for alpha, weight in points:
            moved = None if alpha == 0 else (x + alpha * change).detach()
            slopes.append(weight * self._slope_at(passes, moved, clean))
        return torch.stack(slopes).sum(0)

    def _slope_at(self, passes: Passes, moved: Tensor | None, clean: Tensor) -> Tensor:
        """The slope of every metric where the site has given values, or its own: [prompt, pos, width,
        metric]."""
        model, (site, layer) = passes.model, self.site.ends[1]
        before: list[Any] = [*finite_hooks(passes.facts.n_layers)]
        noise = passes.runs.noises()[0]
        before += [] if noise is None else [("hook_embed", partial(_plus, noise))]
        before += [] if moved is None else patch_hooks(model, site, layer, (slice(None),), moved)
        taps = {(site, layer): slope_hook(model, site, layer)}
        recording = record(model, passes.runs.base, taps, before=before)
        passes.tick(1)
        measured = passes.measure(Scores(passes.experiment.reads(passes.runs)).pick(recording.logits), clean)
        slopes = []
        for number in range(measured.shape[1]):
            last = number == measured.shape[1] - 1
            slopes.append(recording.slopes(measured[:, number].sum(), keep_graph=not last)[site, layer])
            passes.tick(1)
        each = torch.stack(slopes, -1).double()
        return each.flatten(2, -2) if each.ndim > 4 else each

    def _features(self, tables: list[np.ndarray]) -> list[int]:
        """Those that are asked for, or whose change is not 0 anywhere."""
        if self.request.cells is not None:
            return sorted({feature for cell in self.request.cells for feature, _ in cell} - {ERROR})
        live = np.any([(table[:, :, :-1] != 0).any((0, 1, 3)) for table in tables], 0)
        return np.flatnonzero(live).tolist()

    def _cost(self) -> tuple[int, int]:
        steps = len(self.method.points()) if isinstance(self.method, IG) else 1
        return 2 + steps, steps * len(self.experiment.metric)

    def _attrs(self, tables: list[np.ndarray]) -> dict[str, Any]:
        experiment, (forwards, backwards) = self.experiment, self._cost()
        attrs = results.attrs(experiment, method=self.method.name, site=site_name(self.dictionary))
        attrs |= {"window": 1, "engine": "reference", "draws": experiment.draws, "error": "live"}
        attrs |= {"forwards": forwards, "backwards": backwards, **self.method.attrs()}
        attrs |= {"dictionary": repr(self.dictionary), "n_features": self.dictionary.n_features}
        attrs["convention"] = "estimate of: " + attrs["convention"]
        error, total = (
            float(sum(part.sum() for part in parts)) for parts in zip(*((t[:, :, -1], t) for t in tables))
        )
        return attrs | {"error_share": error / total if total else float("nan")}

    def _size(self) -> int:
        experiment, facts = self.experiment, self.experiment.facts
        n_pos, n_metrics = experiment.task.clean.shape[1], len(experiment.metric)
        each = prompt_bytes(facts, experiment.room.item_size, n_pos, self.site.captured, n_metrics, 1)
        each += 8 * n_pos * self.dictionary.n_features * (4 + 3 * n_metrics)
        room, size = max(1, experiment.budget.memory // each), experiment.budget.batch_size
        return max(1, (room if size is None else min(room, size)) // experiment.draws)


class _Measured:
    """Estimated changes [cell, prompt, metric], and the metrics of both runs."""

    def __init__(self, change: np.ndarray, base: np.ndarray, source: np.ndarray) -> None:
        self.change, self.base, self.source = change, base, source


def _cells(table: np.ndarray, grid: Grid, features: list[int], spans: np.ndarray | None) -> np.ndarray:
    """Every cell of a grid out of a table [prompt, pos, feature + 1, metric]."""
    some = table[:, :, [*features, table.shape[2] - 1]]  # [prompt, pos, unit, metric]
    cells = grid.cells[0]
    unit, pos = cells.column("neuron"), cells.column("pos")
    out = np.empty((len(cells), some.shape[0], some.shape[3]))
    for at in np.unique(pos).tolist():
        if at == -1:
            here = some.sum(1)
        elif at >= 0:
            here = some[:, at]
        else:
            marks = np.zeros(some.shape[:2], bool) if spans is None else spans[:, -2 - at]
            here = np.where(marks[..., None, None], some, 0.0).sum(1)
        rows = np.flatnonzero(pos == at)
        out[rows] = here[:, unit[rows]].transpose(1, 0, 2)
    return out


def _plus(noise: Tensor, tensor: Tensor, hook: Any) -> Tensor:
    return tensor + noise
