"""What the writers of a batch write beyond the state, and from it what readers see.

See `forward.py` for the sum. Changes are kept in two tables as they come, so that those before a reader are
the first rows: one at all positions, one at the answer's position alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits._run.reach import FINAL, WHOLE, Reach
from interp.circuits._run.state import Base, State


@dataclass(frozen=True, eq=False)
class Rows:
    """Some circuits of a batch; `index` is a slice where it is all of them."""

    index: Tensor | slice
    n: int
    column: Tensor  # their numbers, [row, 1, 1]


class Changes:
    """The changes of one batch of circuits."""

    def __init__(
        self,
        base: Base,
        state: State,
        masks: Bool[Tensor, "circuit *pos writer reader"],
        reach: Reach,
        recorded: bool = False,
    ) -> None:
        """recorded: of one circuit that a search goes on from, which comes back with most of its edges."""
        self.base, self.state, self.reach, self.recorded = base, state, reach, recorded
        like = base.pre[0]  # [prompt, pos, d_model]
        n, n_pos, d = like.shape
        # [circuit, writer, reader] or [circuit, prompt, pos, writer, reader]
        own = masks[:, base.prompts[:, None], base.pos] if masks.ndim == 5 else masks
        self.masks = masks[:, base.pos] if masks.ndim == 4 else own
        differs = self.masks != state.mask
        self.differs = differs if differs.any() else None
        writes = {WHOLE: reach.writers[1:] == WHOLE}
        writes[FINAL] = reach.writers[1:] > 0 if (reach.readers == FINAL).any() else writes[WHOLE] & False
        width = {WHOLE: n_pos, FINAL: 1}
        self.tables = {
            level: like.new_zeros(len(masks), int(writes[level].sum()), n, width[level], d) for level in width
        }  # [circuit, writer, prompt, pos, d_model]
        self.order: dict[int, list[int]] = {WHOLE: [], FINAL: []}

    def rows(self, readers: slice) -> Rows:
        """The circuits in which some of the readers change."""
        found = torch.as_tensor(self.reach.of(readers), device=self.masks.device)
        every = len(found) == len(self.masks)
        return Rows(slice(None) if every else found, len(found), found[:, None, None])

    def push(self, rows: Rows, writers: np.ndarray, level: int, change: Tensor) -> None:
        """Changes [writer, row, prompt, pos, d_model] of some writers, at all positions or the last."""
        change = change.transpose(0, 1)
        if level == WHOLE:
            self._append(rows, WHOLE, writers, change)
            change = self.base.final(change) if self.tables[FINAL].shape[1] else change
        if self.tables[FINAL].shape[1]:
            self._append(rows, FINAL, writers, change)

    def _append(self, rows: Rows, level: int, writers: np.ndarray, change: Tensor) -> None:
        first = len(self.order[level])
        self.tables[level][rows.index, first : first + len(writers)] = change
        self.order[level] += writers.tolist()

    def inputs(
        self, rows: Rows, readers: np.ndarray, level: int, stream: Float[Tensor, "prompt pos d_model"]
    ) -> tuple[Float[Tensor, "input row prompt at d_model"], np.ndarray]:
        """The different inputs of some readers, and which of them each reader has."""
        kept = self._at(self.masks[rows.index][..., readers], level)[..., self.order[level], :]
        cut = self._cut(rows, readers, level)
        first, which = self._different(readers, kept, cut)
        start = torch.stack([self.state.inputs.get(int(reader), stream) for reader in readers[first]])
        x = (start if level == WHOLE else self.base.final(start))[None]  # [1, input, prompt, pos, d_model]
        if cut is not None:
            x = x + self._added(readers[first], cut[..., first], level)
        if self.order[level]:
            table = self.tables[level][rows.index, : len(self.order[level])]
            x = x + _summed(kept[..., first].to(table.dtype), table)
        x = x.expand(rows.n, *x.shape[1:])
        return x.transpose(0, 1), which

    def _at(self, masks: Tensor, level: int) -> Tensor:
        """Masks with positions, at each prompt's answer: [circuit, prompt, 1, writer, reader]."""
        if masks.ndim == 3 or level == WHOLE:
            return masks
        return masks[:, self.base.prompts, self.base.at].unsqueeze(2)

    def _cut(self, rows: Rows, readers: np.ndarray, level: int) -> Tensor | None:
        """Edges that the state has and a circuit has not: [row, (prompt, pos,) writer, reader]."""
        if self.differs is None:
            return None
        cut = self._at(self.differs[rows.index][..., readers], level)
        return cut if cut.any() else None

    def _added(self, readers: np.ndarray, cut: Tensor, level: int) -> Tensor:
        """What the edges that differ add: [row, reader, prompt, pos, d_model]."""
        if self.recorded and cut.ndim == 3 and not self.state.moved:
            columns = zip(readers.tolist(), cut[0].T)
            sums = torch.stack([self.base.replaced(reader, column) for reader, column in columns])[None]
            return sums if level == WHOLE else self.base.final(sums)
        writers = cut.transpose(-1, -2).flatten(0, -2).any(0).nonzero()[:, 0]  # [writer]
        gaps = self.base.gaps[writers]
        for row, writer in enumerate(writers.tolist()):
            if writer in self.state.moved:
                gaps[row] -= self.state.moved[writer]
        gaps = gaps if level == WHOLE else self.base.final(gaps)
        return _summed(cut[..., writers, :].to(gaps.dtype), gaps[None])

    def _different(
        self, readers: np.ndarray, kept: Tensor, cut: Tensor | None
    ) -> tuple[list[int], np.ndarray]:
        """One reader of each input that occurs, and the input that each reader has."""
        if len(readers) == 1:
            return [0], np.zeros(1, np.int64)
        parts = [kept] if cut is None else [kept, cut]
        rows = torch.cat([part.movedim(-1, 0).flatten(1) for part in parts], 1).cpu().numpy()
        seen: dict[tuple[bytes, int], int] = {}
        first: list[int] = []
        which = np.empty(len(readers), np.int64)
        for number, (reader, row) in enumerate(zip(readers.tolist(), rows)):
            key = (row.tobytes(), reader if reader in self.state.inputs else -1)
            if key not in seen:
                seen[key] = len(first)
                first.append(number)
            which[number] = seen[key]
        return first, which


def _summed(weights: Tensor, table: Float[Tensor, "row_or_1 writer prompt pos d_model"]) -> Tensor:
    """Σ over writers of weights [row, (prompt, pos,) writer, reader] times a table: [row, reader, ...].

    The table is one for all rows, or each row's own. Weights with positions go position by position.
    """
    if weights.ndim > 3:
        table = table.expand(len(weights), *table.shape[1:])
        return torch.einsum("kptuv,kuptd->kvptd", weights, table)
    flat, shape = table.flatten(2), table.shape[2:]
    weights = weights.transpose(1, 2)  # [row, reader, writer]
    if len(flat) == 1:
        out = (weights.flatten(0, 1) @ flat[0]).unflatten(0, weights.shape[:2])
    else:
        out = torch.bmm(weights, flat)
    return out.unflatten(2, shape)
