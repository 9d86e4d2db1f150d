"""Which counterfactual runs are alive, and where each starts and enters.

An item is one counterfactual run: a cell on a prompt. It is alive if the patch changes anything that can
reach a position that is read; every other item is exactly the baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interp.engine import entry
from interp.engine.cells import SITES, SPAN, Cells, with_spans
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.models import Anatomy
from interp.places import AXES, STREAM_SITES

Touched = Callable[[str, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Items:
    """Runs to do, as int64 columns [item]; `row` of a single-patch cell is its row in the table of cells."""

    cell: np.ndarray
    prompt: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    point: np.ndarray

    def __len__(self) -> int:
        return len(self.cell)

    def take(self, index: slice | np.ndarray) -> Items:
        columns = (self.cell, self.prompt, self.start, self.stop, self.point)
        return Items(*(column[index] for column in columns))

    def rows(self) -> int:
        """Rows of the stream that these items need."""
        return int((self.stop - self.start).sum())


def live_items(facts: Anatomy, cells: Cells, reads: Reads, touched: Touched, units: bool = False) -> Items:
    """The alive items of all cells and prompts, in order of entry.

    `touched(site, layer)` says where base and source differ, as `entry.touched` does. units: cells are units
    of given changes (`engine.changes`), numbered as neurons are.
    """
    runs = reads.runs
    starts = np.full((len(cells), len(runs)), runs.n_pos)
    points = np.zeros(len(cells), np.int64)
    first = first_reached(facts, runs)
    read = None if reads.everywhere else runs.positions.cpu().numpy()
    spans = None if runs.spans is None else runs.spans.cpu().numpy()
    for site in cells.sites:
        for layer in np.unique(cells.column("layer")[cells.site == SITES.index(site)]).tolist():
            rows = np.flatnonzero((cells.site == SITES.index(site)) & (cells.column("layer") == layer))
            where = entry.point(facts, site, layer)
            last = where >= 2 * facts.n_layers - 1
            like = "post" if units else site  # the shape of the table
            differ = touched(site, layer) & _later(like, first, runs.n_pos)
            if last and read is not None and site not in ("k", "v"):
                differ = differ & _at_read(like, read, runs.n_pos)
            np.minimum.at(starts, cells.cell[rows], _starts(differ, like, cells, rows, spans).T)
            points[cells.cell[rows]] = where
    if not entry.closed_form(facts, cells):
        points = 2 * cells.first_layer()
    end = reads.stop if facts.causal else runs.lengths  # else every position reaches the one that is read
    stop = np.broadcast_to(end.cpu().numpy(), starts.shape)
    cell, prompt = np.nonzero(starts < stop)
    items = Items(cell, prompt, starts[cell, prompt], stop[cell, prompt], points[cell])
    return items.take(np.argsort(items.point, kind="stable"))


def first_reached(facts: Anatomy, runs: Runs) -> np.ndarray:
    """First position at which activations of the two runs can differ: [prompt]; `n_pos` where none can."""
    first = runs.first_change().cpu().numpy()
    return first if facts.causal else np.where(first < runs.n_pos, 0, first)


def _later(site: str, first: np.ndarray, n_pos: int) -> np.ndarray:
    """Positions from the first change on: before it, differences are the rounding of equal sums."""
    return _along(site, np.arange(n_pos)[None] >= first[:, None])


def _at_read(site: str, read: np.ndarray, n_pos: int) -> np.ndarray:
    """After the last attention only the position that is read matters."""
    return _along(site, np.arange(n_pos)[None] == read[:, None])


def _along(site: str, keep: np.ndarray) -> np.ndarray:
    """A mask [prompt, pos] in the shape of `entry.touched` (for patterns: of the destination)."""
    if site == "pattern":
        return keep[:, None, :, None]
    return keep if site in STREAM_SITES else keep[:, :, None]


def _starts(
    differ: np.ndarray, site: str, cells: Cells, rows: np.ndarray, spans: np.ndarray | None
) -> np.ndarray:
    """First position at which each patch changes something: [prompt, patch]; the length if nowhere."""
    if site == "pattern":  # [prompt, head, dst, src] -> [prompt, dst, head, src]
        differ = differ.transpose(0, 2, 1, 3)
    place = cells.column("dst" if site == "pattern" else "pos")[rows]
    n_pos = differ.shape[1]
    first = np.where(differ.any(1), differ.argmax(1), n_pos)[:, None]  # slot for "all positions"
    shape = [1, n_pos] + [1] * (differ.ndim - 2)
    own = np.where(differ, np.arange(n_pos).reshape(shape), n_pos)
    table = np.concatenate((own, first), 1)  # [prompt, pos + 1, ...]
    if spans is not None and (place <= SPAN).any():
        marks = spans.reshape(*spans.shape, *shape[2:]).swapaxes(0, 1)  # [span, prompt, pos, ...]
        table = with_spans(table, [np.where(each, own, n_pos).min(1) for each in marks])
    if site in STREAM_SITES:
        return table[:, place]
    if site == "pattern":
        return table[:, place, cells.column("head")[rows], cells.column("src")[rows]]
    return table[:, place, cells.column(AXES[site][1])[rows]]
