"""Which features of a dictionary are asked for, and what the cells of a sweep over them are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from interp import ablation as ablations
from interp.ablation import Gaussian, Mean, Resample, Zero
from interp.engine.cells import ALL, SPAN, table
from interp.engine.changes import UNIT
from interp.engine.runs import Runs
from interp.experiment import Experiment
from interp.grid import Grid
from interp.sae._dictionary import Dictionary
from interp.sae._site import ERROR, name_of, parse_name, require, require_place, site_name
from interp.tasks import Task
from interp.tasks._spans import named

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
    require(dictionary, experiment.model, one_head=True)
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
