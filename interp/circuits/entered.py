"""Runs that enter the stream with a given change, for the fast engine's pass over the layers."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from interp.circuits.state import Base
from interp.engine.cells import Cells, table
from interp.engine.items import Items
from interp.engine.layout import Layout
from interp.engine.wavefront import Wavefront


class Entered(Wavefront):
    """Runs whose stream is the base run's plus a change of their own, from the point where they enter on."""

    def __init__(
        self, base: Base, layout: Layout, cells: Cells, changes: Float[Tensor, "item pos d_model"]
    ) -> None:
        super().__init__(base.weights, base.streams, cells, layout, closed_form=True)
        self.changes, self.first = changes, base.pos[:, 0]  # [prompt]

    def _add_changes(self, rows: Tensor, item: Tensor, prompt: Tensor, pos: Tensor) -> None:
        rows += self.changes[item, pos - self.first[prompt]]


def measured(base: Base, items: Items, changes: Float[Tensor, "item pos d_model"]) -> Float[Tensor, "item"]:
    """The metric of each run, float64. `changes` are at the positions that `base` computes."""
    reads, n_layers = base.reads, len(base.weights.blocks)
    layout = Layout(items, n_layers, reads.everywhere, changes.device)
    stream = Entered(base, layout, table([], len(items)), changes).run()
    logits, prompt = base.readout.logits(stream), layout.item_prompt
    if reads.everywhere:  # positions before an item's start are the base run's
        whole = base.full.logits[prompt].clone()  # [item, pos, column]
        whole[layout.final_item, layout.final_pos] = logits
        logits = whole
    return base.readout.score(logits, base.clean_logits[prompt], prompt)[:, 0]
