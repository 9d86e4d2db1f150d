"""Estimates of a site at a layer, with a total beside every axis, and the cells read out of them.

A table is [prompt, axis, ...] over the axes of its site (`places.AXES`). Each axis has one more slot at its
end, for all of it, so that the index -1 of a cell ("all") reads the total; before it, positions have a slot
for each span of the task.

What every method shares is the first order of a change: estimate = (source - base) · coefficient, summed
over the vector, and over whatever a cell covers beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.engine.cells import Cells, with_spans
from interp.places import AXES, SCALAR_SITES, SITES, STREAM_SITES

Place = tuple[str, int]  # site, layer


def with_totals(x: Tensor, dims: tuple[int, ...] | None = None) -> Tensor:
    """x with its sum appended along every dim but the first (or along the dims given)."""
    for dim in range(1, x.ndim) if dims is None else dims:
        x = torch.cat((x, x.sum(dim, keepdim=True)), dim)
    return x


def live(site: str, first: Tensor, n_pos: int) -> Bool[Tensor, "..."]:
    """Where the two runs can differ: positions from the first change on, in the shape of the site's table.

    Differences before it are rounding. For patterns the position is the destination.
    """
    later = torch.arange(n_pos, device=first.device)[None] >= first[:, None]  # [prompt, pos]
    if site == "pattern":
        return later[:, None, :, None]
    return later if site in STREAM_SITES else later[:, :, None]


def dot(site: str, delta: Tensor, slope: Tensor) -> Float[Tensor, "..."]:
    """delta · slope over the site's vectors, float32 or better: [prompt, pos], [prompt, pos, head], ..."""
    wide = torch.float64 if delta.dtype == torch.float64 else torch.float32
    product = delta.to(wide) * slope.to(wide)
    return (product if site in SCALAR_SITES else product.sum(-1)).double()


def places(cells: Cells) -> list[Place]:
    """The (site, layer) pairs that occur."""
    pairs = np.unique(np.stack((cells.site, cells.column("layer"))), axis=1)
    return [(SITES[site], layer) for site, layer in pairs.T.tolist()]


def summed(site: str, table: np.ndarray, spans: np.ndarray | None) -> np.ndarray:
    """A table [prompt, pos + 1, ...] with a slot for the sum over each span; others as they are.

    spans: [prompt, span, pos].
    """
    if spans is None or site == "pattern" or table.shape[1] != spans.shape[2] + 1:
        return table
    marks = spans.reshape(*spans.shape, *[1] * (table.ndim - 2)).swapaxes(0, 1)  # [span, prompt, pos, ...]
    return with_spans(table, [np.where(each, table[:, :-1], 0.0).sum(1) for each in marks])


def read(tables: Mapping[Place, np.ndarray], cells: Cells) -> np.ndarray:
    """The estimate of every cell: [cell, prompt, metric] from tables [prompt, axis, ..., metric]."""
    n_prompts, n_metrics = next((t.shape[0], t.shape[-1]) for t in tables.values())
    out = np.zeros((len(cells), n_prompts, n_metrics))
    for site, layer in places(cells):
        rows = np.flatnonzero((cells.site == SITES.index(site)) & (cells.column("layer") == layer))
        index = tuple(cells.column(axis)[rows] for axis in AXES[site])
        out[cells.cell[rows]] += tables[site, layer][(slice(None), *index)].transpose(1, 0, 2)
    return out


@runtime_checkable
class Term(Protocol):
    """One place: whose slope it needs, and its table of estimates from it."""

    @property
    def place(self) -> Place: ...

    @property
    def needs(self) -> Place: ...

    def table(self, slope: Tensor) -> Tensor: ...  # [prompt, axis + 1, ...], float64


@dataclass(frozen=True, eq=False)
class Linear:
    """First order: the activation's change times the slope in it."""

    place: Place
    source: Tensor
    base: Tensor
    first: Tensor  # first position at which the runs can differ, [prompt]

    @property
    def needs(self) -> Place:
        return self.place

    def table(self, slope: Tensor) -> Tensor:
        site = self.place[0]
        n_pos = slope.shape[2] if site == "pattern" else slope.shape[1]
        estimate = dot(site, self.source - self.base, slope)
        first = self.first.to(estimate.device)
        return with_totals(estimate.masked_fill(~live(site, first, n_pos), 0.0))
