"""Both engines side by side on the fixture grid."""

from __future__ import annotations

import functools
from typing import Any

import architectures
import numpy as np
import torch

from interp.engine.cells import COLUMNS, Cells, grid
from interp.engine.memory import Budget
from interp.engine.readout import Outcome
from interp.engine.reference import Reference
from interp.engine.runs import Runs
from interp.engine.wavefront import Prepared
from interp.models import anatomy, weights
from interp.places import AXES
from interp.tasks import LogitDiff

GRIDS = {
    "stream": [("layer", "pos"), ("layer",)],
    "head": [("layer", "head"), ("layer", "pos", "head"), ("layer", "pos")],
    "pattern": [("layer", "head"), ("layer", "head", "dst"), ("layer", "head", "dst", "src")],
    "post": [("layer", "neuron"), ("layer", "pos", "neuron"), ("layer", "pos")],
}
PLAIN = "LN-gelu_new-plain-serial-mha-learned"
GATED = "RMS-silu-gated-serial-gqa-rotary"
LOGIT_DIFF = (LogitDiff(),)


def grids(site: str) -> list[tuple[str, ...]]:
    """The grids that the spec asks of a site."""
    kind = "stream" if AXES[site] == ("pos",) else "head" if AXES[site] == ("pos", "head") else site
    return GRIDS[kind]


@functools.lru_cache(maxsize=8)
def model_of(name: str) -> Any:
    """A model of the fixture grid by name."""
    return architectures.build(dict(architectures.grid())[name])


def make_runs(
    direction: str = "denoise", first: int = 2, positions: list[int] | None = None, **options: Any
) -> Runs:
    """Runs of random prompts that differ from position `first` on; read at the last position by default."""
    clean, corrupt = architectures.tokens(first, **options)
    n, n_pos = clean.shape
    noise = direction == "noise"
    return Runs(
        base=clean if noise else corrupt,
        source=corrupt if noise else clean,
        clean_is_base=noise,
        answer=torch.arange(3, 3 + n)[:, None],
        wrong=torch.arange(11, 11 + n)[:, None],
        positions=torch.full((n,), n_pos - 1) if positions is None else torch.tensor(positions),
        lengths=torch.full((n,), n_pos),
    )


def both(
    model: Any, runs: Runs, cells: Cells, metrics: tuple = LOGIT_DIFF, batch_size: int | None = None
) -> tuple[Outcome, Outcome]:
    """The same cells by the fast engine and by the reference."""
    with torch.inference_mode():
        slow = Reference(model, runs, cells.sites, metrics).run(cells)
    return quickly(model, runs, cells, metrics, batch_size), slow


def quickly(
    model: Any, runs: Runs, cells: Cells, metrics: tuple = LOGIT_DIFF, batch_size: int | None = None
) -> Outcome:
    """Cells by the fast engine."""
    with torch.inference_mode():
        budget = Budget(anatomy(model), batch_size=batch_size)
        return Prepared(weights(model), runs, cells.sites, metrics, budget).run(cells)


def gap(a: Outcome, b: Outcome) -> float:
    """Largest difference of the raw metrics of two outcomes."""
    return max(float(np.abs(getattr(a, k) - getattr(b, k)).max()) for k in ("patched", "base", "source"))


def effect(outcome: Outcome, cells: Cells, site: str) -> float:
    """Largest effect among the cells of a site."""
    mine = np.unique(cells.cell[[AXES_ORDER[s] == site for s in cells.site]])
    return float(np.abs(outcome.patched - outcome.base)[mine].max())


AXES_ORDER = tuple(AXES)


def all_cells(
    model: Any, site: str, by: tuple[str, ...], n_pos: int = architectures.N_POS, **options: Any
) -> Cells:
    """Every cell of a grid."""
    return grid(anatomy(model), site, by, n_pos, **options)[0]


def sample(cells: Cells, n: int, seed: int) -> Cells:
    """Some cells, in random order."""
    return cells.take(np.random.default_rng(seed).permutation(len(cells))[:n])


def joined(tables: list[Cells]) -> Cells:
    """The cells of several tables in one."""
    offsets = np.cumsum([0, *(len(t) for t in tables)])
    index = {name: np.concatenate([t.column(name) for t in tables]) for name in COLUMNS}
    cell = np.concatenate([t.cell + offset for t, offset in zip(tables, offsets)])
    return Cells(int(offsets[-1]), cell, np.concatenate([t.site for t in tables]), index)


def mixed(model: Any, each: int, seed: int, depth: int = 3, **options: Any) -> Cells:
    """Some cells of every grid of every site, in one table."""
    found = [
        sample(all_cells(model, site, by, **options), each, seed)
        for site in anatomy(model).sites()
        for by in grids(site)[:depth]
    ]
    return joined(found)
