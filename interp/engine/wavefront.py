"""All counterfactuals of a batch in one pass over the layers.

1. Before each block, in its middle and after the last, the items whose patch acts there join the batch, with
   the base run's stream plus their change.
2. Every block runs once on the rows of all items that have joined: only positions from an item's start on,
   attending to the base run's keys and values before it.
3. In the last block, queries and the MLP are computed only where a metric reads.

The values are those of a full forward pass for each item; nothing is approximated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from interp.engine import block as B
from interp.engine import entry
from interp.engine.capture import Capture
from interp.engine.cells import SITES, Cells
from interp.engine.layout import Layout
from interp.engine.overrides import Overrides
from interp.models.parts import Block, Weights


class Wavefront:
    """One batch of items on its way through the model."""

    def __init__(
        self, weights: Weights, saved: Capture, cells: Cells, layout: Layout, closed_form: bool
    ) -> None:
        self.weights, self.saved, self.cells, self.layout = weights, saved, cells, layout
        self.closed_form = closed_form
        self.tap: B.Tap = _pass_on if closed_form else Overrides(cells, layout, saved).tap
        like = saved.pre[0]
        self.x = like.new_empty(int(layout.row_end[-1]), like.shape[-1])  # [row, d_model]
        self.final = like.new_empty(int(layout.final_end[-1]), like.shape[-1])

    def run(self) -> Tensor:
        """The final stream of the rows that are read, [final row, d_model], in order of items."""
        last = len(self.weights.blocks) - 1
        for layer, block in enumerate(self.weights.blocks):
            self._enter(2 * layer, self.saved.pre[layer], final=False)
            n_items = self.layout.entered(2 * layer)[1]
            (self._last_block if layer == last else self._block)(layer, block, n_items)
        self._enter(2 * (last + 1), self.saved.pre[-1], final=True)
        return self.final

    def _block(self, layer: int, block: Block, n_items: int) -> None:
        layout, tap = self.layout, self.tap
        x, pos = self._running(n_items)
        if n_items:
            tap("resid_pre", layer, x)
            h = B.normed(block.attn_norm, x)
            past, groups = self.saved.past[layer], layout.groups(n_items, last=False)
            z, _, _ = B.attention(block.attn, layer, (h, pos), (h, pos), groups, past, tap)
            write = tap("attn_out", layer, B.attn_write(block, z))
            if block.mlp is not None and block.parallel:
                write = write + B.mlp(block.mlp, layer, x, tap)
            x += write
        if block.mlp is not None and not block.parallel:
            self._enter(2 * layer + 1, self.saved.mid[layer], final=False)
            x, _ = self._running(layout.entered(2 * layer + 1)[1])
            if len(x):
                tap("resid_mid", layer, x)
                x += B.mlp(block.mlp, layer, x, tap)
        if len(x):
            tap("resid_post", layer, x)

    def _last_block(self, layer: int, block: Block, n_items: int) -> None:
        """As `_block`, with queries, and all that follows attention, at the final rows only."""
        layout, tap = self.layout, self.tap
        x, pos = self._running(n_items)
        y = self.final[: layout.final_end[n_items]]
        if n_items:
            tap("resid_pre", layer, x)
            source = layout.final_source[: len(y)]
            h = B.normed(block.attn_norm, x)
            queries = (h[source], layout.final_pos[: len(y)])
            past, groups = self.saved.past[layer], layout.groups(n_items, last=True)
            z, _, _ = B.attention(block.attn, layer, queries, (h, pos), groups, past, tap)
            write = tap("attn_out", layer, B.attn_write(block, z))
            if block.mlp is not None and block.parallel:
                write = write + B.mlp(block.mlp, layer, x[source], tap)
            torch.add(x[source], write, out=y)
        if block.mlp is not None and not block.parallel:
            self._enter(2 * layer + 1, self.saved.mid[layer], final=True)
            y = self.final[: layout.final_end[layout.entered(2 * layer + 1)[1]]]
            if len(y):
                tap("resid_mid", layer, y)
                y += B.mlp(block.mlp, layer, y, tap)
        if len(y):
            tap("resid_post", layer, y)

    def _running(self, n_items: int) -> tuple[Tensor, Tensor]:
        """Stream rows of the first items, and their positions."""
        stop = int(self.layout.row_end[n_items])
        return self.x[:stop], self.layout.row_pos[:stop]

    def _enter(self, point: int, base: Tensor, final: bool) -> None:
        """Write the rows of the items that join here: the base stream, plus what their patch changes."""
        first, stop = self.layout.entered(point)
        if first == stop:
            return
        layout = self.layout
        ends = layout.final_end if final else layout.row_end
        span = slice(int(ends[first]), int(ends[stop]))
        item = (layout.final_item if final else layout.row_item)[span]
        pos = (layout.final_pos if final else layout.row_pos)[span]
        prompt = layout.item_prompt[item]
        rows = (self.final if final else self.x)[span]
        rows.copy_(base[prompt, pos])
        if self.closed_form:
            self._add_changes(rows, item, prompt, pos)

    def _add_changes(self, rows: Tensor, item: Tensor, prompt: Tensor, pos: Tensor) -> None:
        cells = self.cells
        cell = torch.as_tensor(self.layout.items.cell, device=item.device)[item]
        site = torch.as_tensor(cells.site, device=item.device)[cell]
        layer = torch.as_tensor(cells.column("layer"), device=item.device)[cell]
        for number, depth in torch.stack((site, layer), 1).unique(dim=0).tolist():
            mine = ((site == number) & (layer == depth)).nonzero()[:, 0]
            patch = {
                name: torch.as_tensor(column, device=item.device)[cell[mine]]
                for name, column in cells.index.items()
            }
            some = entry.Rows(prompt[mine], pos[mine], patch)
            block = self.weights.blocks[depth]
            changed, delta = entry.change(block, self.saved, SITES[number], depth, some)
            rows[mine[changed]] += delta


def _pass_on(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
    return tensor
