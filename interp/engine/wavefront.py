"""The fast engine: exact counterfactuals with as little work as possible.

1. Run base and source once (`runs.capture`).
2. List the cells that can matter (`items.live_items`); all others are exactly the baseline and are not run.
3. In batches that fit the memory, run them in one pass over the layers: before each block, in its middle and
   after the last, the items whose patch acts there join the batch, with the base run's stream plus their
   change (`entry.py`). Only positions from an item's start on are rows; they attend to the base run's keys
   and values before it. In the last block, queries and the MLP are computed only where a metric reads.
4. Read only the logits that the metrics need (`readout.py`).

The values are those of a full forward pass for each item; nothing is approximated. Cells of several patches
(windows of layers, groups of heads) enter unchanged before their first layer and are overwritten on the way
(`Overrides`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from interp.engine import block as B
from interp.engine import entry
from interp.engine.cells import SITES, Cells, covers
from interp.engine.items import Items, live_items
from interp.engine.layout import Layout
from interp.engine.memory import Budget
from interp.engine.precision import lowered
from interp.engine.readout import Outcome, Readout, Reads, clean_right
from interp.engine.runs import Capture, Mix, Runs, capture
from interp.models.parts import Block, Weights
from interp.tasks.metrics import Metric

_STREAM_ROWS = ("resid_pre", "k", "v")  # in the last block all else is computed only where it is read


class Prepared:
    """Base and source runs of some prompts, captured, ready for any cells of the given sites.

    source: the weights of the source run, where they are another model's. precision: of the products of
    blocks (`engine.precision`); what a patch changes at its entry, and the read-out, are of the weights as
    they are.
    """

    def __init__(
        self,
        weights: Weights,
        runs: Runs,
        sites: tuple[str, ...],
        metrics: tuple[Metric, ...],
        budget: Budget,
        source: Weights | None = None,
        precision: str | None = None,
    ) -> None:
        self.weights, self.runs, self.budget = weights, runs, budget
        self.running = lowered(weights, precision)
        self.source_weights = weights if source is None else source
        self.reads = Reads(runs, metrics).to(weights.W_U.device)
        self.readout = Readout(weights, self.reads)
        other = None if source is None else lowered(source, precision)
        self.saved: Capture = capture(self.running, runs, sites, other)
        n = len(runs)
        self.base_logits = self.readout.whole_runs(self.saved.final[:n])  # [prompt, (pos,) column]
        source_logits = Readout(self.source_weights, self.reads).whole_runs(self.saved.final[n:])
        self.clean_logits = self.base_logits if runs.clean_is_base else source_logits
        every = torch.arange(n, device=self.base_logits.device)
        score = self.readout.score
        self.base = score(self.base_logits, self.clean_logits, every).cpu().numpy()
        self.source = score(source_logits, self.clean_logits, every).cpu().numpy()

    def mixed(self, mix: Mix) -> Prepared:
        """The same runs, of which a mixture is patched in. No pass."""
        other = copy.copy(self)
        other.saved = self.saved.mixed(mix)
        return other

    def clean_right(self) -> np.ndarray:
        """1.0 where the clean run prefers the answers, else 0.0: [prompt]."""
        return clean_right(self.clean_logits, self.reads.runs, self.readout.answer, self.readout.wrong)

    def live(self, cells: Cells) -> Items:
        """The counterfactual runs that have to be computed."""
        return live_items(self.budget.facts, cells, self.reads, partial(entry.touched, self.saved))

    def run(self, cells: Cells, tick: Callable[[int], object] = lambda n: None) -> Outcome:
        """Metrics of every cell on every prompt; `tick` hears of runs done, dead ones included."""
        items = self.live(cells)
        patched = np.repeat(self.base[None], len(cells), 0)  # [cell, prompt, metric]
        tick(len(cells) * len(self.runs) - len(items))
        for batch in self.budget.batches(items, self.reads):
            patched[batch.cell, batch.prompt] = self._score(batch, cells)
            tick(len(batch))
        return Outcome(patched, self.base, self.source)

    def _score(self, items: Items, cells: Cells) -> np.ndarray:
        """Metrics of one batch of items: [item, metric]."""
        layout = Layout(items, len(self.weights.blocks), self.reads.everywhere, self.weights.W_U.device)
        stream = self._wave(cells, layout).run()
        logits = self.readout.logits(stream)
        prompt = layout.item_prompt
        if self.reads.everywhere:  # positions before an item's start are the base run's
            whole = self.base_logits[prompt].clone()  # [item, pos, column]
            whole[layout.final_item, layout.final_pos] = logits
            logits = whole
        return self.readout.score(logits, self.clean_logits[prompt], prompt).cpu().numpy()

    def _wave(self, cells: Cells, layout: Layout) -> Wavefront:
        closed_form = entry.closed_form(self.budget.facts, cells)
        return Wavefront(self.weights, self.saved, cells, layout, closed_form, self.running)


class Wavefront:
    """One batch of items on its way through the model. running: the weights that it runs by, where they
    are less precise."""

    def __init__(
        self,
        weights: Weights,
        saved: Capture,
        cells: Cells,
        layout: Layout,
        closed_form: bool,
        running: Weights | None = None,
    ) -> None:
        self.running = weights if running is None else running
        self.weights, self.saved, self.cells, self.layout = weights, saved, cells, layout
        self.closed_form = closed_form
        self.tap: B.Tap = _pass_on if closed_form else Overrides(cells, layout, saved).tap

    def run(self) -> Tensor:
        """The final stream of the rows that are read, [final row, d_model], in order of items."""
        saved, last = self.saved, len(self.weights.blocks) - 1
        x = saved.pre[0].new_empty(0, saved.pre[0].shape[-1])  # [row, d_model]
        for layer, block in enumerate(self.running.blocks):
            x = self._enter(2 * layer, x, saved.pre[layer], final=False)
            if len(x):
                x = self._attention(layer, block, x, last=layer == last)
            if block.mlp is not None and not block.parallel:
                x = self._enter(2 * layer + 1, x, saved.mid[layer], final=layer == last)
            if len(x):
                x = B.through_mlp(block, layer, x, self.tap)
        return self._enter(2 * (last + 1), x, saved.pre[-1], final=True)

    def _attention(self, layer: int, block: Block, x: Tensor, last: bool) -> Tensor:
        """The stream after attention; of the last block only the rows that are read."""
        layout, past = self.layout.on(block.device), self.saved.past[layer]
        n_items = layout.entered(2 * layer)[1]
        groups, pos = layout.groups(n_items, last), layout.row_pos[: len(x)]
        n_final = int(layout.final_end[n_items])
        rows, at = (layout.final_source[:n_final], layout.final_pos[:n_final]) if last else (None, pos)

        def attend(block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
            h = B.normed(block.attn_norm, x)
            queries = (h if rows is None else h[rows], at)
            return B.attention(block.attn, layer, queries, (h, pos), groups, past, tap)[0]

        return B.through_attention(block, layer, x, attend, self.tap, rows)

    def _enter(self, point: int, x: Tensor, base: Tensor, final: bool) -> Tensor:
        """x with the rows of the items that join here: the base stream, plus what their patch changes."""
        first, stop = self.layout.entered(point)
        if first == stop:
            return x
        layout = self.layout.on(base.device)
        ends = layout.final_end if final else layout.row_end
        span = slice(int(ends[first]), int(ends[stop]))
        item = (layout.final_item if final else layout.row_item)[span]
        pos = (layout.final_pos if final else layout.row_pos)[span]
        prompt = layout.item_prompt[item]
        rows = base[prompt, pos]
        if self.closed_form:
            self._add_changes(rows, item, prompt, pos)
        return torch.cat((x.to(rows.device), rows)) if len(x) else rows

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
            block = self.weights.blocks[depth]
            some = entry.Rows(prompt[mine], pos[mine], patch).on(block.device)
            changed, delta = entry.change(block, self.saved, SITES[number], depth, some)
            rows[mine[changed.to(mine.device)]] += delta.to(rows.device)


def _pass_on(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
    return tensor


class Overrides:
    """The patches of the cells of a batch, by site and layer."""

    def __init__(self, cells: Cells, layout: Layout, saved: Capture) -> None:
        self.cells, self.layout, self.saved = cells, layout, saved
        self.by_place: dict[tuple[str, int], np.ndarray] = {}
        place = cells.site * 100_000 + cells.column("layer")
        for number in np.unique(place).tolist():
            self.by_place[SITES[number // 100_000], number % 100_000] = np.flatnonzero(place == number)

    def tap(self, site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
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
            row, prompt, pos = self._rows(patch, last, tensor)
            unit = int(self.cells.column(axis)[patch])
            if unit < 0:
                tensor[row] = source[prompt, pos]
            else:
                tensor[row, unit] = source[prompt, pos, unit]
        return tensor

    def _rows(self, patch: int, last: bool, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the tensor that a patch overwrites, with prompt and position of each."""
        layout, n_rows = self.layout.on(tensor.device), tensor.shape[0]
        item, pos = (layout.final_item, layout.final_pos) if last else (layout.row_item, layout.row_pos)
        item, pos = item[:n_rows], pos[:n_rows]
        mine = torch.as_tensor(layout.items.cell == self.cells.cell[patch], device=item.device)[item]
        wanted = torch.full_like(pos, int(self.cells.column("pos")[patch]))
        mine = mine & covers(self.saved.spans, wanted, layout.item_prompt[item], pos)
        row = mine.nonzero()[:, 0]
        return row, layout.item_prompt[item[row]], pos[row]

    def _pattern(self, tensor: Tensor, source: Tensor, patches: np.ndarray, group: B.Group) -> Tensor:
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
