"""Patching features of a dictionary: each cell one feature, or the dictionary's error, at one position or
all.

1. Run base and source once; take the site apart into φ and ε in both (`sae._site`).
2. Features whose φ differs somewhere are the cells; every other one is a no-op by construction.
3. A cell changes the site by (φ' − φ) d, or ε' − ε: all cells of all prompts run from there on in one batch
   (`engine.changes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from interp import ablation as ablations
from interp import results, stores
from interp.ablation import Gaussian, Mean, Resample, Zero
from interp.engine.cells import ALL, SPAN, Cells, table
from interp.engine.changes import UNIT, Changed, Changes, by_hooks
from interp.engine.readout import Outcome
from interp.engine.reference import Reference
from interp.engine.runs import Runs
from interp.engine.trust import choose
from interp.experiment import Experiment
from interp.grid import Grid, Sheet
from interp.models import weights
from interp.sae._dictionary import Dictionary
from interp.sae._site import ERROR, Parts, Site, name_of, parse_name, require, require_place, site_name
from interp.tasks import Task
from interp.tasks._spans import named

_STORED = 8  # prompts of a unit of a store
Filled = dict[str, Any]  # by variable: a region, and what fills it
_BY = (("feature",), ("pos", "feature"), ("span", "feature"))


@dataclass(frozen=True)
class Request:
    """What is asked: all features along some dims, or named cells, each a list of (feature, place of it)."""

    by: tuple[str, ...]
    cells: tuple[tuple[tuple[int, int], ...], ...] | None = None
    names: tuple[str, ...] = ()


def require_alone(site: object, window: int, neurons: object) -> None:
    """ValueError for arguments that have no meaning beside features."""
    for name, given in (("site", site), ("neurons", neurons)):
        if given is not None:
            raise ValueError(
                f"{name}= does not go with features=, whose dictionary says where it sits. Leave it out."
            )
    if window != 1:
        raise ValueError("window= does not go with features=, which lie in one layer. Leave it out.")


def asked(
    experiment: Experiment,
    dictionary: Dictionary,
    by: str | Sequence[str] | None,
    cells: Sequence[str | Sequence[str]] | None,
) -> Request:
    """The request, checked; no pass. Raises ValueError for what does not fit model or dictionary."""
    require(dictionary, experiment.model)
    ablation, task = experiment.contrast.ablation, experiment.task
    if not isinstance(ablation, (Resample, Gaussian, Zero, Mean)):
        raise ValueError(
            f"{ablation.kind} ablation of features is not known. Use resample, gaussian, zero or mean."
        )
    if experiment.contrast.source is not None:
        raise ValueError("features of another model are not those of this one: leave source= out.")
    if cells is not None:
        if by is not None:
            raise ValueError("give either by= (a grid) or cells= (a list of names), and not both.")
        return _listed(experiment, dictionary, cells)
    dims = ("feature",) if by is None else (by,) if isinstance(by, str) else tuple(by)
    dims = (
        tuple(sorted(dims, key=["pos", "span", "feature"].index))
        if set(dims) <= {"pos", "span", "feature"}
        else dims
    )
    if dims not in _BY:
        raise ValueError(
            f"by={dims}; features are patched by 'feature', ('pos', 'feature') or ('span', 'feature')."
        )
    if "span" in dims and not task.spans:
        raise ValueError("by= has 'span', and the task has no named positions; use ('pos', 'feature').")
    return Request(dims)


def _listed(experiment: Experiment, dictionary: Dictionary, cells: Sequence[str | Sequence[str]]) -> Request:
    if not cells:
        raise ValueError(f"cells= is empty. Name at least one, for example ['{name_of(dictionary, 0)}'].")
    groups = [[each] if isinstance(each, str) else list(each) for each in cells]
    task = experiment.task
    found = []
    for group in groups:
        parsed = [parse_name(text, dictionary) for text in group]
        found.append(tuple((feature, _position(task, at)) for feature, at in parsed))
    return Request(("cell",), tuple(found), tuple(" + ".join(group) for group in groups))


def _position(task: Task, at: str | None) -> int:
    """A column of positions: a number, -1 for all, below for a span."""
    if at is None or at == "*":
        return ALL
    n_pos = task.clean.shape[1]
    if at.lstrip("-").isdigit():
        if not -n_pos <= int(at) < n_pos:
            raise ValueError(f"position {at} is out of range: prompts have {n_pos} tokens.")
        return int(at) % n_pos
    named(task.spans, at)
    return SPAN - list(task.spans).index(at)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some prompts, run: base and replacement of the site, and the engine's runs."""

    prompts: slice
    ready: Changed | Reference
    base: Parts
    put: Parts

    @property
    def delta(self) -> Tensor:
        return self.put.phi - self.base.phi  # [prompt draw, pos, feature]


@dataclass(frozen=True, eq=False)
class FeatureSweep:
    """Features of a dictionary on the task of an experiment."""

    experiment: Experiment
    dictionary: Dictionary
    request: Request

    def run(self) -> xr.Dataset:
        """Unit by unit of prompts, each in as many blocks as fit the memory."""
        experiment, request = self.experiment, self.request
        runs = feature_runs(experiment)
        site = Site(experiment, self.dictionary)
        engine = choose(experiment.model, runs, site.captured, 1, experiment.budget.engine)
        n, size = len(experiment.task), self._size(runs, engine, site)
        units = _parts(slice(0, n), size if experiment.budget.store is None else _STORED)
        blocks = {(s.start, s.stop): None for unit in units for s in _parts(unit, size)}
        make = lambda ends: self._block(site, runs, engine, slice(*ends))  # noqa: E731
        kept = {ends: make(ends) for ends in blocks} if len(blocks) == 1 else {}
        features = self._live(list(kept.values()) or (make(ends) for ends in blocks))
        grid = feature_grid(experiment.task, self.dictionary, request, features)
        attrs = results.attrs(experiment, method="patch", site=site_name(self.dictionary))
        attrs |= {"window": 1, "engine": engine, "draws": experiment.draws, "error": "live"}
        attrs |= {"dictionary": repr(self.dictionary), "n_features": self.dictionary.n_features}
        sheet, cells = Sheet(experiment, grid, attrs), grid.cells[0]
        every = slice(0, len(grid.coords[0][grid.by[0]]))
        with self._opened(sheet, units, every, features) as opened:
            todo = [i for i in range(len(units)) if opened is None or not opened.done[i]]
            total = sum(units[i].stop - units[i].start for i in todo) * experiment.draws * len(cells)
            with tqdm(total=total, disable=not experiment.budget.progress, desc="patch", unit="run") as bar:
                for number in todo:
                    parts = []
                    for span in _parts(units[number], size):
                        block = kept.get((span.start, span.stop)) or make((span.start, span.stop))
                        outcome, right = self._measured(
                            block, self._changes(block, features, runs), cells, bar
                        )
                        parts.append(sheet.fill(span, 0, every, outcome, right))
                    if opened is not None:
                        opened.write(number, _joined(parts))
            out = sheet.dataset() if opened is None else opened.load()
        return labelled(out, self.dictionary, features)

    def _measured(
        self, block: _Block, changes: Changes, cells: Cells, bar: tqdm
    ) -> tuple[Outcome, np.ndarray]:
        """Every cell on the prompts of a block, and which of their clean runs are right."""
        if isinstance(block.ready, Changed):
            block.ready.changes = changes
            outcome = block.ready.run(cells, bar.update)
        else:
            outcome = by_hooks(block.ready, changes, cells, bar.update)
        return outcome, block.ready.clean_right()[:: self.experiment.draws]

    def _opened(self, sheet: Sheet, units: list[slice], every: slice, features: list[int]) -> Any:
        """The store, where there is one; a unit is a block of prompts, whatever the memory."""
        store = self.experiment.budget.store
        if store is None:
            return nullcontext()
        identity = self.experiment.identity() | {
            "method": "patch", "site": sheet.attrs["site"], "dims": ", ".join(self.request.by),
            "engine": sheet.attrs["engine"], "dictionary": digest(self.dictionary), "features": features,
            "cells": [list(map(list, cell)) for cell in self.request.cells or ()],
        }  # fmt: skip
        regions = [sheet.regions(unit, 0, every) for unit in units]
        return stores.open_arrays(store, sheet.dataset(), identity, {"prompt": _STORED}, regions)

    def _size(self, runs: Runs, engine: str, site: Site) -> int:
        """Prompts at once: their captures, and their features."""
        n, draws, room = len(self.experiment.task), self.experiment.draws, self.experiment.room
        if engine != "fast":
            return min(n, 32)
        reads = self.experiment.reads(runs)
        columns = self.experiment.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        captured = room.prompts(runs.n_pos, site.captured, columns, reads.everywhere)
        each = 4 * 8 * runs.n_pos * self.dictionary.n_features  # φ, φ', their difference, a mask
        return min(max(1, min(captured, self.experiment.budget.memory // max(each, 1)) // draws), n)

    def _block(self, site: Site, runs: Runs, engine: str, prompts: slice) -> _Block:
        experiment, draws = self.experiment, self.experiment.draws
        some = runs.take(slice(prompts.start * draws, prompts.stop * draws))
        if engine == "fast":
            ready = Changed(
                weights(experiment.model), some, site.captured, experiment.metric, experiment.room
            )
            base, source = ready.saved.base, ready.saved.source
        else:
            ready = Reference(experiment.model, some, site.captured, experiment.metric, both=True)
            base, source = ready.base_activations, ready.source_activations
        return _Block(prompts, ready, site.parts(base), site.replacement(site.parts(source)))

    def _live(self, blocks: Sequence[_Block] | Iterator[_Block]) -> list[int]:
        """The features that are cells: those that differ anywhere, or those that are asked for."""
        if self.request.cells is not None:
            return sorted({feature for cell in self.request.cells for feature, _ in cell} - {ERROR})
        differ = torch.zeros(self.dictionary.n_features, dtype=torch.bool)
        for block in blocks:
            differ |= (block.delta != 0).flatten(0, 1).any(0).cpu()
        return differ.nonzero()[:, 0].tolist()

    def _changes(self, block: _Block, features: list[int], runs: Runs) -> Changes:
        place = require_place(self.dictionary)
        index = torch.tensor(features, dtype=torch.int64, device=block.base.phi.device)
        amounts = block.delta[..., index]
        vectors = self.dictionary.W_dec.to(amounts)[index]
        dense = [block.put.error - block.base.error]
        groups = [cell for cell in self.request.cells or () if len(cell) > 1]
        dense += [torch.stack([self._masked(block, each, runs) for each in cell]).sum(0) for cell in groups]
        return Changes(place.site, place.layer or 0, amounts, vectors, torch.stack(dense))

    def _masked(self, block: _Block, part: tuple[int, int], runs: Runs) -> Tensor:
        """The change of one of several features that are one cell: [prompt, pos, width]."""
        feature, at = part
        if feature == ERROR:
            whole = block.put.error - block.base.error
        else:
            whole = block.delta[..., feature, None] * self.dictionary.W_dec.to(block.delta)[feature]
        if at == ALL:
            return whole
        draws = self.experiment.draws
        some = slice(block.prompts.start * draws, block.prompts.stop * draws)
        pos = torch.arange(whole.shape[1], device=whole.device)
        marks = runs.spans[some, SPAN - at] if at <= SPAN and runs.spans is not None else (pos == at)[None]
        return whole * marks[..., None]


def feature_grid(task: Task, dictionary: Dictionary, request: Request, features: list[int]) -> Grid:
    """Cells over some features, the error last."""
    where = require_place(dictionary)
    marks = torch.stack([*task.spans.values()], 1) if task.spans else None
    units, n_pos = np.arange(len(features) + 1), task.clean.shape[1]
    if request.cells is not None:
        unit, pos = _columns(request, features)
        coords = {"cell": np.array(request.names, dtype=object)}
    else:
        names = np.array([name_of(dictionary, each) for each in [*features, ERROR]], dtype=object)
        axis = {"pos": np.arange(n_pos), "span": np.array(list(task.spans), dtype=object)}
        coords = {dim: axis[dim] for dim in request.by if dim in axis} | {"feature": names}
        lead = {"pos": np.arange(n_pos), "span": SPAN - np.arange(len(task.spans))}
        at = lead.get(request.by[0], np.array([ALL]))
        pos, unit = (each.ravel() for each in np.meshgrid(at, units, indexing="ij"))
    layer = np.full(len(unit), where.layer or 0)
    cells = table(where.site, len(unit), layer=layer, pos=pos, **{UNIT: unit})
    spans = tuple(task.spans)
    return Grid((site_name(dictionary),), request.by, (cells,), (coords,), False, 1, spans, marks)


def _columns(request: Request, features: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Units and positions of listed cells: features, then the error, then groups."""
    number = {feature: unit for unit, feature in enumerate(features)} | {ERROR: len(features)}
    unit, pos, groups = [], [], len(features) + 1
    for cell in request.cells or ():
        single = len(cell) == 1
        unit.append(number[cell[0][0]] if single else groups)
        pos.append(cell[0][1] if single else ALL)
        groups += not single
    return np.array(unit), np.array(pos)


def feature_runs(experiment: Experiment) -> Runs:
    """Base and source runs; ablations of features replace φ and ε, and no activation."""
    contrast, task = experiment.contrast, experiment.task
    if not isinstance(contrast.ablation, (Zero, Mean)):
        return experiment.runs(())
    runs = ablations.make_runs(experiment.model, task, Zero(), contrast.direction, ())
    return replace(runs, fill=lambda site, layer, source: source)


def labelled(out: xr.Dataset, dictionary: Dictionary, features: list[int]) -> xr.Dataset:
    """With the numbers of features beside their names; -1 is the error."""
    if "feature" not in out.dims:
        return out
    return out.assign_coords(index=("feature", np.array([*features, ERROR])))


def digest(dictionary: Dictionary) -> str:
    """What two dictionaries share if and only if their tensors and settings are the same."""
    hashed = hashlib.sha256()
    for name, value in sorted(
        {**vars(dictionary), **(vars(dictionary.gate) if dictionary.gate else {})}.items()
    ):
        if isinstance(value, Tensor):
            hashed.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        elif name not in ("metadata", "gate"):
            hashed.update(f"{name} {value}".encode())
    return hashed.hexdigest()[:16]


def _parts(span: slice, size: int) -> list[slice]:
    """A span of prompts in parts of a size."""
    return [slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size)]


def _joined(parts: list[Filled]) -> Filled:
    """What neighbouring blocks of prompts filled, as one."""
    out = {}
    for name, (region, _) in parts[0].items():
        prompts = slice(region[0].start, parts[-1][name][0][0].stop)
        out[name] = ((prompts, *region[1:]), np.concatenate([part[name][1] for part in parts]))
    return out
