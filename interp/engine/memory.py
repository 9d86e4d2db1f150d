"""How many counterfactual runs fit in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from interp.engine.items import Items
from interp.engine.readout import Reads
from interp.models import Anatomy
from interp.places import AXES

DEFAULT_BUDGET = 2 * 2**30  # bytes above the model's own
_PIECE = 12 * 2**20  # bytes of the largest tensor of a batch on a CPU


@dataclass(frozen=True)
class Budget:
    """Bytes to use beside the model, and the runs in flight if the caller says so."""

    facts: Anatomy
    limit: int = DEFAULT_BUDGET
    batch_size: int | None = None

    @property
    def item_size(self) -> int:
        return 8 if self.facts.dtype.itemsize == 8 else 4  # norms and readouts are float32 at least

    def row_bytes(self) -> int:
        """Peak bytes a row of the stream takes while a block runs."""
        f = self.facts
        attention = 4 * f.d_model + 6 * f.n_heads * f.d_head
        mlp = 4 * f.d_model + 3 * f.d_mlp
        return self.item_size * max(attention, mlp)

    def run_bytes(self, n_pos: int, n_columns: int, everywhere: bool) -> int:
        """Peak bytes of one counterfactual run of `n_pos` positions."""
        f = self.facts
        scores = 4 * f.n_heads * n_pos * n_pos + 4 * n_pos * f.n_key_value_heads * f.d_head
        logits = 4 * n_columns * (n_pos if everywhere else 1)
        return n_pos * self.row_bytes() + self.item_size * max(scores, logits)

    def prompt_bytes(self, n_pos: int, sites: tuple[str, ...], n_columns: int, everywhere: bool) -> int:
        """Bytes that the captured base and source runs of one prompt hold."""
        f = self.facts
        kept = f.n_layers * n_pos * (2 * f.d_model + 4 * f.n_key_value_heads * f.d_head)
        for site in sites:
            sizes = {a: f.size(site, a, n_pos) for a in AXES[site]}
            kept += 2 * f.n_layers * int(np.prod(list(sizes.values()))) * f.width(site)
            if site in ("q", "k", "v", "pattern"):
                kept += 8 * f.n_layers * n_pos * f.n_heads * f.d_head
        return self.item_size * (kept + 4 * n_columns * (n_pos if everywhere else 1))

    def prompts(self, n_pos: int, sites: tuple[str, ...], n_columns: int, everywhere: bool) -> int:
        """Prompts to capture at once: their captured runs take at most half of the budget."""
        each = self.prompt_bytes(n_pos, sites, n_columns, everywhere)
        each += 2 * self.run_bytes(n_pos, n_columns, everywhere)  # both runs on their way
        return max(1, int(self.limit / 2 / each))

    def batches(self, items: Items, reads: Reads) -> Iterator[Items]:
        """Items in order, in batches that fit: at least one, at most `batch_size`.

        On a CPU no tensor of a block is larger than what the C library keeps for the next one: to fetch new
        pages for each takes half as long as the products.
        """
        room, f = self.limit / 2, self.facts
        span = np.maximum(items.stop - items.start, 1)
        whole = reads.runs.n_pos
        widest = np.maximum(span * max(f.d_model, f.n_heads * f.d_head, f.d_mlp), f.n_heads * whole**2)
        sizes = np.cumsum(self.item_size * widest) if f.device.type == "cpu" else np.zeros(len(items))
        n_columns = self.facts.d_vocab_out if reads.columns is None else len(reads.columns)
        tail = self.run_bytes(whole, n_columns, reads.everywhere) - whole * self.row_bytes()
        cost = np.cumsum(span * self.row_bytes() + tail)
        first = 0
        while first < len(items):
            before = cost[first - 1] if first else 0
            size = sizes[first - 1] if first else 0
            stop = int(np.searchsorted(cost, before + room, side="right"))
            stop = min(stop, int(np.searchsorted(sizes, size + _PIECE, side="right")))
            stop = max(stop, first + 1)
            if self.batch_size is not None:
                stop = min(stop, first + self.batch_size)
            yield items.take(slice(first, stop))
            first = stop
