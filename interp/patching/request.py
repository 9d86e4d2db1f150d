"""What the caller asked for, checked: sites, dims, cells, metrics. Every mistake is a ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from interp import places
from interp.engine.cells import ALL, COLUMNS, Cells, grid, table
from interp.models import Anatomy, Model
from interp.places import AXES, hint
from interp.tasks import Task
from interp.tasks.metrics import Metric

DEFAULT_BY = {
    **{site: ("layer", *axes) for site, axes in AXES.items()},
    **dict.fromkeys(("z", "q", "k", "v", "pattern"), ("layer", "head")),
    "post": ("layer", "neuron"),
}


@dataclass(frozen=True, eq=False)
class Request:
    """The cells of each site, and the dims of the result: `layer` first, or `cell` for a list."""

    sites: tuple[str, ...]
    by: tuple[str, ...]
    cells: tuple[Cells, ...]  # one table a site
    coords: tuple[dict[str, np.ndarray], ...]
    several: bool  # whether the result has a site dim
    window: int = 1

    @property
    def all_sites(self) -> tuple[str, ...]:
        """Every site that is patched."""
        return tuple(dict.fromkeys(site for cells in self.cells for site in cells.sites))

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


def grid_request(
    facts: Anatomy,
    n_pos: int,
    site: str | Sequence[str],
    by: str | Sequence[str] | None,
    window: int,
    neurons: Sequence[int] | None,
) -> Request:
    """A grid over one site, or over several sites with the same axes."""
    sites = (site,) if isinstance(site, str) else tuple(site)
    if not sites:
        raise ValueError("no site given. Name one, for example 'resid_pre' or 'z'.")
    for one in sites:
        check_site(facts, one)
    dims = _dims(sites, by)
    if not 1 <= window <= facts.n_layers:
        raise ValueError(
            f"window is {window}; the model has {facts.n_layers} layers, so 1 to {facts.n_layers} fits."
        )
    only = {} if neurons is None else {"neuron": _neurons(facts, dims, neurons)}
    made = [grid(facts, one, dims, n_pos, window, only) for one in sites]
    cells, coords = tuple(m[0] for m in made), tuple(m[1] for m in made)
    return Request(sites, dims, cells, coords, not isinstance(site, str), window)


def check_site(facts: Anatomy, site: str) -> None:
    """Raise ValueError unless the model has the site."""
    if site not in AXES:
        raise ValueError(f"unknown site {site!r}{hint(site, AXES)} Sites: {', '.join(AXES)}.")
    if site not in facts.sites():
        why = "attention-only" if facts.attn_only else "parallel (attention and MLP read the same stream)"
        raise ValueError(f"the model is {why}, so it has no {site!r}. It has: {', '.join(facts.sites())}.")


def _dims(sites: tuple[str, ...], by: str | Sequence[str] | None) -> tuple[str, ...]:
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
        allowed = ("layer", *AXES[site])
        unknown = [dim for dim in dims if dim not in allowed]
        if unknown:
            raise ValueError(f"site {site!r} has no dim {unknown[0]!r}; by= may use {', '.join(allowed)}.")
    if len(set(dims)) != len(dims):
        raise ValueError(f"by={dims} names a dim twice.")
    if "layer" not in dims:
        raise ValueError(f"by={dims} has no 'layer': every cell lies in a layer (or in a window of layers).")
    order = ("layer", "pos", "head", "neuron", "dst", "src")
    return tuple(sorted(dims, key=order.index))


def _neurons(facts: Anatomy, dims: tuple[str, ...], neurons: Sequence[int]) -> list[int]:
    if "neuron" not in dims:
        raise ValueError(f"neurons= was given, but by={dims} has no 'neuron'.")
    wrong = [n for n in neurons if not 0 <= n < facts.d_mlp]
    if wrong:
        raise ValueError(
            f"neuron {wrong[0]} is out of range: the model has neurons 0 to {facts.d_mlp - 1} a layer."
        )
    return list(neurons)


def list_request(facts: Anatomy, n_pos: int, wanted: Sequence[str | Sequence[str]]) -> Request:
    """A list of cells by name; an entry that is itself a list is patched together, as one cell."""
    if not wanted:
        raise ValueError("cells= is empty. Name at least one, for example ['L9H6', 'L3.resid_pre@5'].")
    entries = [[entry] if isinstance(entry, str) else list(entry) for entry in wanted]
    places = [[place(facts, n_pos, part) for part in entry] for entry in entries]
    labels = np.array([" + ".join(entry) for entry in entries], dtype=object)
    flat = [one for group in places for one in group]
    cell = np.repeat(np.arange(len(places)), [len(group) for group in places])
    columns = {
        name: np.array([ALL if getattr(one, name) is None else getattr(one, name) for one in flat])
        for name in COLUMNS
    }
    made = table([one.site for one in flat], len(flat), cell=cell, **columns)
    return Request(("cells",), ("cell",), (made,), ({"cell": labels},), False)


def place(facts: Anatomy, n_pos: int, text: str) -> places.Place:
    """A named place in this model, its positions counted from 0. ValueError if the model lacks it."""
    found = places.parse(
        text,
        n_layers=facts.n_layers,
        n_heads=facts.n_heads,
        n_key_value_heads=facts.n_key_value_heads,
        d_mlp=facts.d_mlp,
        n_pos=n_pos,
    )
    if found.site in places.ENDS:
        raise ValueError(f"{text!r} is not a site that can be patched. Use 'L0.resid_pre' for the embedding.")
    check_site(facts, found.site)
    counted = {a: getattr(found, a) % n_pos for a in ("pos", "dst", "src") if getattr(found, a) is not None}
    return replace(found, **counted)


def check_metrics(metrics: Metric | Sequence[Metric] | None, task: Task) -> tuple[Metric, ...]:
    """The metrics to measure; the task's own by default."""
    if metrics is None:
        return (task.metric,)
    found = (metrics,) if isinstance(metrics, Metric) else tuple(metrics)
    if not found:
        raise ValueError("metrics is empty. Give at least one, or leave it out for the task's own.")
    for metric in found:
        if not isinstance(metric, Metric):
            raise ValueError(
                f"{metric!r} is not a metric. Use interp.tasks.LogitDiff() and its like, or "
                "interp.tasks.Custom(fn, name=...) for a function of your own."
            )
    listed = [metric.name for metric in found]
    if len(set(listed)) != len(listed):
        raise ValueError(f"two metrics share a name: {', '.join(listed)}.")
    return found


def check_model(model: Model, facts: Anatomy, task: Task) -> None:
    """Raise ValueError for a model in train mode, or a task that does not fit it."""
    if model.training:
        raise ValueError(
            "the model is in train mode, where dropout may act. Call model.eval() first (interp.load does)."
        )
    if task.clean.device != facts.device:
        raise ValueError(
            f"the task's tokens are on {task.clean.device} and the model on {facts.device}. "
            "Build the task from this model, or move the model."
        )
    if task.clean.shape[1] > facts.n_ctx:
        raise ValueError(
            f"prompts have {task.clean.shape[1]} tokens, the model's context is {facts.n_ctx}. "
            "Shorten the prompts."
        )
    task.require_vocabulary(model)
