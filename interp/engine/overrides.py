"""Cells of several patches: each activation is overwritten as the run passes it.

Such a cell enters unchanged before its first layer and meets its patches on the way (a window of layers, a
group of heads, any set). `tap` writes the source run's values into the rows of the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from interp.engine.block import Group
from interp.engine.capture import Capture
from interp.engine.cells import SITES, Cells
from interp.engine.layout import Layout

_STREAM_ROWS = ("resid_pre", "k", "v")  # in the last block all else is computed only where it is read


class Overrides:
    """The patches of the cells of a batch, by site and layer."""

    def __init__(self, cells: Cells, layout: Layout, saved: Capture) -> None:
        self.cells, self.layout, self.saved = cells, layout, saved
        self.by_place: dict[tuple[str, int], np.ndarray] = {}
        place = cells.site * 100_000 + cells.column("layer")
        for number in np.unique(place).tolist():
            self.by_place[SITES[number // 100_000], number % 100_000] = np.flatnonzero(place == number)

    def tap(self, site: str, layer: int, tensor: Tensor, group: Group | None = None) -> Tensor:
        """The tensor with the patched entries replaced."""
        patches = self.by_place.get((site, layer))
        if patches is None:
            return tensor
        source = self.saved.source[site, layer]
        if site == "pattern" and group is not None:
            return self._pattern(tensor, source, patches, group)
        last = layer == self.layout.n_layers - 1 and site not in _STREAM_ROWS
        axis = {"post": "neuron"}.get(site, "head")
        for patch in patches.tolist():
            row, prompt, pos = self._rows(patch, last, tensor.shape[0])
            unit = int(self.cells.column(axis)[patch])
            if unit < 0:
                tensor[row] = source[prompt, pos]
            else:
                tensor[row, unit] = source[prompt, pos, unit]
        return tensor

    def _rows(self, patch: int, last: bool, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows among the first `n_rows` that a patch overwrites, with prompt and position of each."""
        layout = self.layout
        item, pos = (layout.final_item, layout.final_pos) if last else (layout.row_item, layout.row_pos)
        item, pos = item[:n_rows], pos[:n_rows]
        mine = torch.as_tensor(layout.items.cell == self.cells.cell[patch], device=item.device)[item]
        wanted = int(self.cells.column("pos")[patch])
        if wanted >= 0:
            mine = mine & (pos == wanted)
        row = mine.nonzero()[:, 0]
        return row, layout.item_prompt[item[row]], pos[row]

    def _pattern(self, tensor: Tensor, source: Tensor, patches: np.ndarray, group: Group) -> Tensor:
        """tensor [run, head, query, key] of one group; source [prompt, head, dst, src]."""
        cell_of = torch.as_tensor(self.layout.items.cell, device=tensor.device)[group.runs]
        for patch in patches.tolist():
            run = (cell_of == int(self.cells.cell[patch])).nonzero()[:, 0]
            head, dst, src = (int(self.cells.column(name)[patch]) for name in ("head", "dst", "src"))
            heads = range(tensor.shape[1]) if head < 0 else [head]
            keys = slice(0, group.stop) if src < 0 else slice(src, min(src + 1, group.stop))
            for query, pos in enumerate(group.query_pos.tolist()):
                if dst in (-1, pos):
                    for h in heads:
                        tensor[run, h, query, keys] = source[group.prompts[run], h, pos, keys]
        return tensor
