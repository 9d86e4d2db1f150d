"""The fast engine: exact counterfactuals with as little work as possible.

1. Run base and source once (`capture`).
2. List the cells that can matter (`layout.live_items`); all others are exactly the baseline and are not run.
3. In batches that fit the memory, run them from where they enter the stream (`wavefront`).
4. Read only the logits that the metrics need (`readout`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from interp.engine import entry
from interp.engine.capture import Capture, capture
from interp.engine.cells import Cells
from interp.engine.items import Items, live_items
from interp.engine.layout import Layout
from interp.engine.memory import Budget
from interp.engine.readout import Readout, Reads, clean_right
from interp.engine.runs import Runs
from interp.engine.wavefront import Wavefront
from interp.models.parts import Weights
from interp.tasks.metrics import Metric


@dataclass(frozen=True, eq=False)
class Outcome:
    """Raw metrics, float64: of the patched runs [cell, prompt, metric], of both runs [prompt, metric]."""

    patched: np.ndarray
    base: np.ndarray
    source: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """patched - base: [cell, prompt, metric]."""
        return self.patched - self.base


class Prepared:
    """Base and source runs of some prompts, captured, ready for any cells of the given sites."""

    def __init__(
        self,
        weights: Weights,
        runs: Runs,
        sites: tuple[str, ...],
        metrics: tuple[Metric, ...],
        budget: Budget,
    ) -> None:
        self.weights, self.runs, self.budget = weights, runs, budget
        self.reads = Reads(runs, metrics)
        self.readout = Readout(weights, self.reads)
        self.saved: Capture = capture(weights, runs, sites)
        n = len(runs)
        self.base_logits = self.readout.whole_runs(self.saved.final[:n])  # [prompt, (pos,) column]
        source_logits = self.readout.whole_runs(self.saved.final[n:])
        self.clean_logits = self.base_logits if runs.clean_is_base else source_logits
        every = torch.arange(n, device=runs.base.device)
        score = self.readout.score
        self.base = score(self.base_logits, self.clean_logits, every).cpu().numpy()
        self.source = score(source_logits, self.clean_logits, every).cpu().numpy()

    def clean_right(self) -> np.ndarray:
        """1.0 where the clean run prefers the answers, else 0.0: [prompt]."""
        return clean_right(self.clean_logits, self.runs, self.readout.answer, self.readout.wrong)

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
        layout = Layout(items, len(self.weights.blocks), self.reads.everywhere, self.runs.base.device)
        closed_form = entry.closed_form(self.budget.facts, cells)
        stream = Wavefront(self.weights, self.saved, cells, layout, closed_form).run()
        logits = self.readout.logits(stream)
        prompt = layout.item_prompt
        if self.reads.everywhere:  # positions before an item's start are the base run's
            whole = self.base_logits[prompt].clone()  # [item, pos, column]
            whole[layout.final_item, layout.final_pos] = logits
            logits = whole
        return self.readout.score(logits, self.clean_logits[prompt], prompt).cpu().numpy()
