"""What to patch: a cell is one counterfactual run, made of one or more patches.

A patch names a site, a layer, and along each axis of the site one index or all (-1). In the place of a
position may stand a span of the task: -2 is its first, -3 its second. Cells are kept as columns of a table,
not as objects, so that a hundred thousand of them cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models import Anatomy
from interp.places import AXES, SITES

COLUMNS = ("layer", "pos", "head", "neuron", "expert", "dst", "src")
ALL, SPAN = -1, -2  # SPAN and below: a span's number, counted downwards


def covers(
    spans: Bool[Tensor, "prompt span pos"] | None,
    wanted: Int[Tensor, "..."],
    prompt: Int[Tensor, "..."],
    pos: Int[Tensor, "..."],
) -> Bool[Tensor, "..."]:
    """Whether a patch's position, span or "all" is at a position of a prompt; of shapes that go together."""
    inside = (wanted == ALL) | (wanted == pos)
    if spans is None:
        return inside
    return inside | ((wanted <= SPAN) & spans.to(pos.device)[prompt, (SPAN - wanted).clamp(min=0), pos])


def with_spans(table: np.ndarray, per_span: list[np.ndarray]) -> np.ndarray:
    """[prompt, pos + 1, ...], the last slot for all positions, with one before it for each span: -2 is the
    first."""
    between = [each[:, None] for each in reversed(per_span)]
    return np.concatenate((table[:, :-1], *between, table[:, -1:]), 1)


@dataclass(frozen=True, eq=False)
class Cells:
    """A table with one row a patch: the cell it belongs to, its site (index into SITES) and its indices."""

    n_cells: int
    cell: np.ndarray
    site: np.ndarray
    index: Mapping[str, np.ndarray]  # by COLUMNS; -1 is "all"

    def __len__(self) -> int:
        return self.n_cells

    def column(self, name: str) -> np.ndarray:
        return self.index[name]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that occur, in the order of SITES."""
        return tuple(SITES[i] for i in np.unique(self.site))

    @property
    def single(self) -> bool:
        """Whether every cell is one patch."""
        return len(self.cell) == self.n_cells

    def take(self, cells: np.ndarray) -> Cells:
        """The given cells, renumbered in the order given."""
        order = np.full(self.n_cells, -1)
        order[cells] = np.arange(len(cells))
        rows = np.flatnonzero(order[self.cell] >= 0)
        rows = rows[np.argsort(order[self.cell[rows]], kind="stable")]
        index = {name: column[rows] for name, column in self.index.items()}
        return Cells(len(cells), order[self.cell[rows]], self.site[rows], index)

    def first_layer(self) -> np.ndarray:
        """The lowest layer each cell patches: [cell]."""
        out = np.full(self.n_cells, np.iinfo(np.int64).max)
        np.minimum.at(out, self.cell, self.index["layer"])
        return out


def table(site: Iterable[str] | str, n: int, cell: np.ndarray | None = None, **columns: np.ndarray) -> Cells:
    """Cells from columns; a missing column is "all"."""
    names = [site] * n if isinstance(site, str) else list(site)
    index = {name: np.asarray(columns.get(name, np.full(n, ALL)), dtype=np.int64) for name in COLUMNS}
    cell = np.arange(n) if cell is None else np.asarray(cell)
    n_cells = int(cell.max()) + 1 if n else 0
    return Cells(n_cells, cell, np.array([SITES.index(s) for s in names], dtype=np.int64), index)


def grid(
    facts: Anatomy, site: str, by: tuple[str, ...], n_pos: int, window: int = 1, only: Mapping[str, list] = {}
) -> tuple[Cells, dict[str, np.ndarray]]:
    """Every cell of a site along the dims `by`, and the coordinate of each dim.

    Along an axis that is not in `by` a cell covers everything. With `window` w a cell patches its site at
    layers l to l + w - 1. `only` restricts a dim to given indices (and says how many spans there are).
    """
    sizes = {"layer": facts.n_layers - window + 1} | {a: facts.size(site, a, n_pos) for a in AXES[site]}
    coords = {dim: np.asarray(only.get(dim, range(sizes.get(dim, 0))), dtype=np.int64) for dim in by}
    mesh = np.meshgrid(*coords.values(), indexing="ij")
    columns = {dim: axis.ravel() for dim, axis in zip(coords, mesh)}
    if "span" in columns:
        columns["pos"] = SPAN - columns.pop("span")
    n = len(columns["layer"])
    if window == 1:
        return table(site, n, **columns), coords
    repeated = {dim: np.repeat(column, window) for dim, column in columns.items()}
    repeated["layer"] = repeated["layer"] + np.tile(np.arange(window), n)
    return table(site, n * window, cell=np.repeat(np.arange(n), window), **repeated), coords
