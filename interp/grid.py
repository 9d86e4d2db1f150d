"""A grid of cells: what a caller asked to measure, the arrays that are filled, and their labels.

`interp.patch` measures a grid exactly, `interp.attribute` estimates it; both give the same Dataset.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from interp import places, results
from interp.engine.cells import ALL, COLUMNS, SPAN, Cells, grid, table
from interp.experiment import Experiment
from interp.models import Anatomy
from interp.places import AXES, EXPERT_SITES, hint
from interp.tasks import Task
from interp.tasks._spans import named

DEFAULT_BY = {
    **{site: ("layer", *axes) for site, axes in AXES.items()},
    **dict.fromkeys(("z", "q", "k", "v", "pattern"), ("layer", "head")),
    "post": ("layer", "neuron"),
    **dict.fromkeys(EXPERT_SITES, ("layer", "expert")),
}


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of each site, and the dims of the result: `layer` first, or `cell` for a list."""

    sites: tuple[str, ...]
    by: tuple[str, ...]
    cells: tuple[Cells, ...]  # one table a site
    coords: tuple[dict[str, np.ndarray], ...]
    several: bool  # whether the result has a site dim
    window: int = 1
    spans: tuple[str, ...] = ()  # names, where cells are spans
    marks: Bool[Tensor, "prompt span pos"] | None = None

    @property
    def all_sites(self) -> tuple[str, ...]:
        """Every site that is patched."""
        return tuple(dict.fromkeys(site for cells in self.cells for site in cells.sites))

    def absent(self, site: int, prompts: slice, cells: slice) -> np.ndarray:
        """Whether a cell of a site has no such span in a prompt: [cell, prompt]."""
        table = self.cells[site]
        out = np.zeros((len(table), prompts.stop - prompts.start), bool)
        patch = np.flatnonzero(table.column("pos") <= SPAN)
        if len(patch) and self.marks is not None:
            missing = ~self.marks[prompts].any(-1).cpu().numpy().T  # [span, prompt]
            np.logical_or.at(out, table.cell[patch], missing[SPAN - table.column("pos")[patch]])
        return out[cells]

    def identity(self) -> dict[str, str]:
        """Which positions the spans are, for the identity of a store; nothing where there are none."""
        if self.marks is None or not any((cells.column("pos") <= SPAN).any() for cells in self.cells):
            return {}
        marks = np.packbits(self.marks.cpu().numpy())
        return {"spans": f"{', '.join(self.spans)}: {hashlib.sha256(marks.tobytes()).hexdigest()}"}

    @cached_property
    def table(self) -> Cells:
        """The cells of all sites in one table, for planning and self-checks."""
        if len(self.cells) == 1:
            return self.cells[0]
        offsets = np.cumsum([0, *(len(cells) for cells in self.cells)])
        index = {
            name: np.concatenate([cells.column(name) for cells in self.cells]) for name in self.cells[0].index
        }
        cell = np.concatenate([cells.cell + offset for cells, offset in zip(self.cells, offsets)])
        return Cells(int(offsets[-1]), cell, np.concatenate([cells.site for cells in self.cells]), index)


def make_grid(
    facts: Anatomy,
    task: Task,
    site: str | Sequence[str] | None,
    by: str | Sequence[str] | None,
    cells: Sequence[str | Sequence[str]] | None,
    window: int = 1,
    neurons: Sequence[int] | None = None,
) -> Grid:
    """The grid of the arguments of `interp.patch`. Every mistake is a ValueError."""
    if cells is not None and site is None:
        return _list(facts, task, cells)
    if site is None:
        raise ValueError("give site= (a grid, such as 'z' or 'resid_pre') or cells= (a list of names).")
    if cells is not None:
        raise ValueError("give either site= (a grid) or cells= (a list of names), and not both.")
    return _grid(facts, task, site, by, window, neurons)


def _grid(
    facts: Anatomy,
    task: Task,
    site: str | Sequence[str],
    by: str | Sequence[str] | None,
    window: int,
    neurons: Sequence[int] | None,
) -> Grid:
    """A grid over one site, or over several sites with the same axes."""
    sites = (site,) if isinstance(site, str) else tuple(site)
    if not sites:
        raise ValueError("no site given. Name one, for example 'resid_pre' or 'z'.")
    for one in sites:
        check_site(facts, one)
    dims = dims_of(sites, by)
    if not isinstance(window, int) or not 1 <= window <= facts.n_layers:
        raise ValueError(
            f"window is {window!r}; the model has {facts.n_layers} layers, so 1 to {facts.n_layers} fits."
        )
    only = {} if neurons is None else {"neuron": _neurons(facts, dims, neurons)}
    only |= _numbered(task) if "span" in dims else {}
    if any(len(facts.layers(one)) < facts.n_layers for one in sites):
        only["layer"] = _layers(sites, window, facts)
    n_pos = task.clean.shape[1]
    cells, coords = zip(*(grid(facts, one, dims, n_pos, window, only) for one in sites))
    names = np.array(list(task.spans), dtype=object)
    coords = tuple({d: names[c] if d == "span" else c for d, c in each.items()} for each in coords)
    return Grid(
        sites, dims, cells, coords, not isinstance(site, str), window, tuple(task.spans), _marks(task)
    )


def _numbered(task: Task) -> dict[str, list[int]]:
    """The numbers of a task's spans. ValueError where it has none."""
    if not task.spans:
        raise ValueError(
            "by= has 'span', and the task has no named positions. Give spans= when building it, as in "
            "Task.from_prompts(model, ..., spans={'subject': [1, 1, 2]}), or use by=('layer', 'pos')."
        )
    return {"span": list(range(len(task.spans)))}


def _marks(task: Task) -> Bool[Tensor, "prompt span pos"] | None:
    return torch.stack([*task.spans.values()], 1) if task.spans else None


def _layers(sites: tuple[str, ...], window: int, facts: Anatomy) -> list[int]:
    """The layers of sites that not all layers have. ValueError for what these cannot be asked for."""
    site = next(one for one in sites if len(facts.layers(one)) < facts.n_layers)
    layers = facts.layers(site)
    if window > 1 or any(facts.layers(one) != layers for one in sites):
        raise ValueError(
            f"only layers {', '.join(map(str, layers))} have a {site}: patch it by itself, with window=1."
        )
    return list(layers)


def check_site(facts: Anatomy, site: str) -> None:
    """Raise ValueError unless the model has the site."""
    if site not in AXES:
        raise ValueError(f"unknown site {site!r}{hint(site, AXES)} Sites: {', '.join(AXES)}.")
    if (why := facts.lacks(site)) is not None:
        raise ValueError(f"no site {site!r}: {why}. The model has: {', '.join(facts.sites())}.")


def dims_of(sites: tuple[str, ...], by: str | Sequence[str] | None) -> tuple[str, ...]:
    shared = DEFAULT_BY[sites[0]]
    if by is None:
        if any(DEFAULT_BY[site] != shared for site in sites):
            raise ValueError(
                f"the sites {', '.join(sites)} have different axes. "
                "Patch them in separate calls, or give by=."
            )
        return shared
    dims = (by,) if isinstance(by, str) else tuple(by)
    for site in sites:
        allowed = ("layer", *AXES[site], *(("span",) if "pos" in AXES[site] else ()))
        unknown = [dim for dim in dims if dim not in allowed]
        if unknown:
            raise ValueError(f"site {site!r} has no dim {unknown[0]!r}; by= may use {', '.join(allowed)}.")
    if len(set(dims)) != len(dims):
        raise ValueError(f"by={dims} names a dim twice.")
    if "layer" not in dims:
        raise ValueError(f"by={dims} has no 'layer': every cell lies in a layer (or in a window of layers).")
    if {"pos", "span"} <= set(dims):
        raise ValueError(f"by={dims} has 'pos' and 'span', which are the same axis. Give one of them.")
    order = ("layer", "pos", "span", "head", "neuron", "expert", "dst", "src")
    return tuple(sorted(dims, key=order.index))


def _neurons(facts: Anatomy, dims: tuple[str, ...], neurons: Sequence[int]) -> list[int]:
    if "neuron" not in dims:
        raise ValueError(f"neurons= was given, but by={dims} has no 'neuron'.")
    for neuron in neurons:
        if not isinstance(neuron, (int, np.integer)) or isinstance(neuron, bool):
            raise ValueError(f"neuron {neuron!r} is not a whole number.")
        if not 0 <= neuron < facts.d_mlp:
            raise ValueError(
                f"neuron {neuron} is out of range: the model has neurons 0 to {facts.d_mlp - 1} a layer."
            )
    return [int(neuron) for neuron in neurons]


def _list(facts: Anatomy, task: Task, names: Sequence[str | Sequence[str]]) -> Grid:
    """A list of cells by name; an entry that is itself a list is patched together, as one cell."""
    if not names:
        raise ValueError("cells= is empty. Name at least one, for example ['L9H6', 'L3.resid_pre@5'].")
    entries = [[entry] if isinstance(entry, str) else list(entry) for entry in names]
    groups = [[_placed(facts, task, part) for part in entry] for entry in entries]
    labels = np.array([" + ".join(entry) for entry in entries], dtype=object)
    flat = [one for group in groups for one in group]
    cell = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    columns = {
        name: np.array([ALL if getattr(one, name) is None else getattr(one, name) for one, _ in flat])
        for name in COLUMNS
    }
    columns["pos"] = np.where([span < 0 for _, span in flat], columns["pos"], [SPAN - s for _, s in flat])
    cells = table([one.site for one, _ in flat], len(flat), cell=cell, **columns)
    coords = ({"cell": labels},)
    return Grid(("cells",), ("cell",), (cells,), coords, False, 1, tuple(task.spans), _marks(task))


def _placed(facts: Anatomy, task: Task, text: str) -> tuple[places.Place, int]:
    """A named place, and the number of the span that it names for its position; -1 for none."""
    body, _, name = text.partition("@")
    if not name or name[:1] in "*-0123456789":
        return place(facts, task.clean.shape[1], text), -1
    parsed = place(facts, task.clean.shape[1], body)
    named(task.spans, name)
    if "pos" not in parsed.axes:
        raise ValueError(f"{text!r}: the positions of a pattern are numbers, as in 'L9H6.pattern@7<-2'.")
    return parsed, list(task.spans).index(name)


def place(facts: Anatomy, n_pos: int, text: str) -> places.Place:
    """A named place in this model, its positions counted from 0. ValueError if the model lacks it."""
    parsed = places.parse(
        text,
        n_layers=facts.n_layers,
        n_heads=facts.n_heads,
        n_key_value_heads=facts.n_key_value_heads,
        d_mlp=facts.d_mlp,
        n_experts=facts.n_experts or None,
        n_pos=n_pos,
    )
    if parsed.site in places.ENDS:
        raise ValueError(f"{text!r} is not a site that can be patched. Use 'L0.resid_pre' for the embedding.")
    check_site(facts, parsed.site)
    if parsed.layer not in facts.layers(parsed.site):
        raise ValueError(
            f"{text!r}: layer {parsed.layer} has no experts; layers {facts.layers(parsed.site)} have."
        )
    counted = {a: getattr(parsed, a) % n_pos for a in ("pos", "dst", "src") if getattr(parsed, a) is not None}
    return replace(parsed, **counted)


Parts = dict[str, tuple[tuple, np.ndarray]]  # by variable: the region, and what fills it


@runtime_checkable
class Measured(Protocol):
    """Some cells on some prompts, float64: raw changes of the metrics, and the metrics of both runs."""

    @property
    def change(self) -> np.ndarray: ...  # [cell, prompt draw, metric]: patched - base

    @property
    def base(self) -> np.ndarray: ...  # [prompt draw, metric]

    @property
    def source(self) -> np.ndarray: ...


class Sheet:
    """The arrays of a grid's effects, NaN until they are filled."""

    def __init__(self, experiment: Experiment, grid: Grid, attrs: dict[str, Any]) -> None:
        self.experiment, self.grid, self.attrs = experiment, grid, attrs
        n, n_metrics = len(experiment.task), len(experiment.metric)
        widest = [max(len(coords[dim]) for coords in grid.coords) for dim in grid.by]
        shape = (n, len(grid.sites), *widest, n_metrics)
        shapes = {"value": shape, "clean": (n, n_metrics), "corrupt": (n, n_metrics), "clean_right": (n,)}
        if experiment.draws > 1:
            shapes["draw_variance"] = shape
        self.arrays = {name: np.full(size, np.nan) for name, size in shapes.items()}

    def fill(
        self, prompts: slice, site: int, first: slice, measured: Measured, clean_right: np.ndarray
    ) -> Parts:
        """Take in the cells of one site at `first` along the first dim; what was filled, and where."""
        values = self._averaged(prompts, site, first, measured) | {"clean_right": clean_right}
        for name, region in self._regions(prompts, site, first).items():
            self.arrays[name][region] = values[name]
        return {
            name: (region, values[name][..., 0] if self._lone(name) else values[name])
            for name, region in self.regions(prompts, site, first).items()
        }

    def regions(self, prompts: slice, site: int, first: slice) -> dict[str, tuple]:
        """What `fill` fills, in the dims of the dataset, which drops a lone site and a lone metric."""
        out = self._regions(prompts, site, first)
        if not self.grid.several:
            out |= {name: (prompts, *out[name][2:]) for name in ("value", "draw_variance") if name in out}
        return out

    def dataset(self) -> xr.Dataset:
        """The result so far."""
        grid, task = self.grid, self.experiment.task
        cells = ("prompt", "site", *grid.by, "metric")
        dims = {"clean": ("prompt", "metric"), "corrupt": ("prompt", "metric"), "clean_right": ("prompt",)}
        arrays = {name: (dims.get(name, cells), array) for name, array in self.arrays.items()}
        if not grid.several:
            arrays = {
                name: (tuple(d for d in over if d != "site"), array[:, 0] if "site" in over else array)
                for name, (over, array) in arrays.items()
            }
        coords: dict[str, Any] = {dim: max((c[dim] for c in grid.coords), key=len) for dim in grid.by}
        coords |= {"metric": [metric.name for metric in self.experiment.metric]}
        coords |= {"site": list(grid.sites)} if grid.several else {}
        return results.dataset(arrays, {**coords, **_labels(coords, task, grid)}, self.attrs, task)

    def _regions(self, prompts: slice, site: int, first: slice) -> dict[str, tuple]:
        lengths = [len(self.grid.coords[site][dim]) for dim in self.grid.by[1:]]
        cells = (prompts, site, first, *(slice(0, length) for length in lengths))
        return {name: cells if name in ("value", "draw_variance") else (prompts,) for name in self.arrays}

    def _averaged(self, prompts: slice, site: int, first: slice, measured: Measured) -> dict[str, np.ndarray]:
        """Effects and baselines, with draws averaged."""
        experiment, n, draws = self.experiment, prompts.stop - prompts.start, self.experiment.draws
        change = measured.change.astype(float)  # [cell, prompt draw, metric]
        each = len(self.grid.cells[site]) // len(self.grid.coords[site][self.grid.by[0]])
        missing = self.grid.absent(site, prompts, slice(first.start * each, first.stop * each))
        change[missing.repeat(draws, 1)] = np.nan
        by_draw = change.transpose(1, 0, 2) * experiment.signs  # [prompt draw, cell, metric]
        lengths = [len(self.grid.coords[site][dim]) for dim in self.grid.by[1:]]
        effects = by_draw.reshape(n, draws, first.stop - first.start, *lengths, len(experiment.metric))
        base, source = (raw.reshape(n, draws, -1).mean(1) for raw in (measured.base, measured.source))
        noise = experiment.contrast.direction == "noise"
        clean, corrupt = (base, source) if noise else (source, base)
        values = {"value": effects.mean(1), "clean": clean, "corrupt": corrupt}
        return values | ({"draw_variance": effects.var(1, ddof=1)} if draws > 1 else {})

    def _lone(self, name: str) -> bool:
        return len(self.experiment.metric) == 1 and name != "clean_right"


def _labels(coords: dict[str, Any], task: Task, grid: Grid) -> dict[str, Any]:
    """Tokens and head names beside the integer coordinates."""
    labels: dict[str, Any] = {}
    tokens = results.position_labels(task)
    for dim, name in (("pos", "token"), ("dst", "dst_token"), ("src", "src_token")):
        if dim in coords:
            labels[name] = (dim, tokens[coords[dim]])
    if "span" in coords and grid.marks is not None:
        labels["present"] = ("span", grid.marks.any(-1).sum(0).cpu().numpy())
    if "layer" in coords and "head" in coords:
        mesh = [[f"L{layer}H{head}" for head in coords["head"]] for layer in coords["layer"]]
        labels["head_name"] = (("layer", "head"), np.array(mesh, dtype=object))
    if "layer" in coords and grid.window > 1:
        labels["last_layer"] = ("layer", coords["layer"] + grid.window - 1)
    return labels
