"""Estimates of every edge from slopes, block by block of prompts.

1. A block of as many prompts as memory allows runs to both ends, and between them as the method says.
2. `Sums` adds the products of writers' changes and readers' slopes, each point of a path by its weight.
3. `Sheet` takes the scores of the block, as effects: positive where the edge helps.

Integrated gradients come in the variants of their published code:

| variant         | slopes are averaged over                                                              |
|-----------------|---------------------------------------------------------------------------------------|
| inputs          | runs whose input (the stream before the first block) is base + α (source − base)       |
| activations     | for the edges out of a part (the input, the heads of a layer, an MLP): runs in which    |
|                 | that part writes base + α (source − base), and all before it what it writes in the base |
| clean-corrupted | the two runs                                                                          |

For "inputs", `rule="left"` and direction "noise" the points are those of the published code, which leaves out
the corrupt end. Its "activations" averages the slopes of the runs of all parts for every edge; here each edge
has its own, so that the edges out of a part add up to the effect of replacing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from interp._verbs import warn
from interp.attribution._by_hooks import autograd_on
from interp.circuits._run.job import Job
from interp.circuits._score.passes import (
    INPUT,
    EdgePasses,
    Passed,
    Place,
    Sizes,
    run_base,
    run_secant,
    sizes,
)
from interp.circuits._score.sheet import Sheet
from interp.circuits._score.sums import Sums
from interp.methods import IG, GradPath, Method, Secant
from interp.models.parts import Weights

_INCOMPLETE = 0.01  # of the metric's gap, for secant slopes


@dataclass(frozen=True, eq=False)
class Scoring:
    """Estimates from slopes, block by block of prompts."""

    job: Job
    method: Method
    positions: bool | str
    by_prompt: bool = True

    def run(self) -> xr.Dataset:
        """All prompts."""
        job, graph, n, n_metrics = self.job, self.job.graph, len(self.job.runs), len(self.job.metric)
        by_span, spans = self.positions == "span", job.experiment.task.spans
        places = None if not self.positions else ("span", len(spans)) if by_span else ("pos", job.runs.n_pos)
        room = sizes(job.room, job.runs.n_pos, graph, n_metrics, 1 if places is None else places[1])
        room = room if self._weights is not None else room._replace(by_block=False)
        forwards, backwards = self.method.edge_cost(graph.n_layers, graph.attn_only)
        path = self.method.steps if isinstance(self.method, GradPath) else 0
        attrs = {"forwards": forwards, "backwards": backwards, **self.method.attrs()}
        attrs["engine"] = "fast" if self._weights is not None else "reference"
        sheet = Sheet(
            job, self.method.edge_name, attrs | {"positions": str(self.positions)}, places, self.by_prompt
        )
        notes: dict[str, float] = {}
        with sheet.opened():
            blocks, quiet = sheet.blocks(room.prompts), not job.experiment.budget.progress
            total = len(blocks) * (forwards + backwards * n_metrics + path)
            with tqdm(total=total, disable=quiet, desc=self.method.edge_name, unit="pass") as bar:
                for block in blocks:
                    scores, ends, more = self._block(block, room, bar.update)
                    sheet.take(block, self._signed(block, np.moveaxis(scores, 0, -1)), ends)
                    notes = {name: max(value, notes.get(name, 0.0)) for name, value in more.items()}
            whole = sum(block.stop - block.start for block in blocks) == n
            out = sheet.dataset(self._counts(n), **attrs, **(notes if whole else {}))
        out.attrs["convention"] = "estimate of: " + out.attrs["convention"]
        return out

    def _signed(
        self, block: slice, scores: Float[np.ndarray, "prompt *any metric"]
    ) -> Float[np.ndarray, "prompt *any metric"]:
        """The scores of a block as effects; by prompt, NaN for spans that one does not have."""
        effects = scores * self.job.experiment.signs + 0.0  # no -0.0
        if self.by_prompt and (present := self._present) is not None:
            effects[~present[block]] = np.nan
        return effects

    @property
    def _present(self) -> Bool[np.ndarray, "prompt span"] | None:
        """Which prompts have which spans, where these are kept apart."""
        if self.positions != "span" or self.job.runs.spans is None:
            return None
        return self.job.runs.spans.any(-1).cpu().numpy()

    def _counts(self, n: int) -> np.ndarray | int:
        """Prompts that a mean is over; of a span that none has it is NaN."""
        if (present := self._present) is None:
            return n
        counts = present.sum(0).astype(float)  # [span]
        return np.where(counts > 0, counts, np.nan)[:, None, None, None]

    @property
    def _weights(self) -> Weights | None:
        """The weights that passes go by; None where they go through the model."""
        by_hooks = isinstance(self.method, Secant) or self.job.experiment.budget.engine == "reference"
        return None if by_hooks else self.job.weights

    def _block(
        self, block: slice, room: Sizes, tick: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
        """Scores, the metrics of base and source [2, prompt, metric], and what the method says of its own
        accuracy."""
        job, method = self.job, self.method
        runs, kind = job.runs.take(block), method.norms
        passes = EdgePasses(
            job.experiment.model,
            job.facts,
            runs,
            job.metric,
            tick,
            self._weights,
            isinstance(method, GradPath),
            room.by_block,
        )
        stop = int(passes.reads.stop.max())
        sums = Sums(job.weights, job.spans, runs, job.constants, stop, room.positions, self.positions, kind)
        with autograd_on():
            if isinstance(method, IG):
                out, base, source = _integrated(passes, sums, method)
            elif isinstance(method, GradPath):
                out, base, source = _descended(passes, sums, method)
            else:
                source, base = run_secant(passes) if kind == "secant" else run_base(passes, method.rules)
                out = sums.zeros(len(job.metric))
                sums.add(out, base, source, base)
        clean = (base if runs.clean_is_base else source).picked
        ends = torch.stack([passes.measure(run.picked, clean) for run in (base, source)])
        notes = dict(base.notes)
        if kind == "secant" and self.positions != "span":  # spans need not make up the prompt
            notes["completeness"] = _completeness(out, ends)
        return out.cpu().numpy(), ends.cpu().numpy(), notes


def _completeness(out: Float[Tensor, "metric prompt *any"], ends: Float[Tensor, "2 prompt metric"]) -> float:
    """By how much all edges out of the input together miss the metric's change, on the worst prompt."""
    gap = (ends[1] - ends[0]).T  # [metric, prompt]
    total = out[..., 0, :].flatten(2).sum(2)
    miss = (total - gap).abs().amax(1)  # [metric]
    worst = int((miss / gap.abs().amax(1).clamp(min=1e-300)).argmax())
    if float(miss[worst]) > _INCOMPLETE * float(gap[worst].abs().max()):
        warn(
            f"secant scores miss the metric's change by up to {float(miss[worst]):.2g} of "
            f"{float(gap[worst].abs().max()):.2g}: some step of the model is not covered, or precision is "
            "low."
        )
    return float(miss.max())


def _integrated(passes: EdgePasses, sums: Sums, method: IG) -> tuple[Tensor, Passed, Passed]:
    """Scores [metric, prompt, (pos,) writer, reader], and the base and source runs."""
    source = passes.plain(source=True)
    if method.variant == "clean-corrupted":
        return _two_ends(passes, sums, source)
    base = passes.plain(source=False)
    out = sums.zeros(len(passes.reads.metrics))
    clean = (base if passes.runs.clean_is_base else source).picked
    paths = [(INPUT, slice(None))] if method.variant == "inputs" else _parts(sums)
    for place, rows in paths:
        origin = base.values[place]
        change = source.values[place] - origin
        for alpha, weight in method.points():
            run = passes.graph(clean, replaced={place: origin + alpha * change})
            sums.add(out, base, source, run, weight, rows)
    return out, base, source


def _descended(passes: EdgePasses, sums: Sums, method: GradPath) -> tuple[Tensor, Passed, Passed]:
    """Slopes at the points of a path from the base input down to the source run's logits."""
    source, base = passes.plain(source=True), passes.plain(source=False)
    out = sums.zeros(len(passes.reads.metrics))
    clean = (base if passes.runs.clean_is_base else source).picked
    point = base.values[INPUT]  # [prompt, pos, d_model]
    stride = torch.tensor(method.stride or 0.0).to(point)
    if method.stride is None:
        stride = (source.values[INPUT] - point).flatten(1).norm(dim=1)[:, None, None] / method.steps
    for _ in range(method.steps):
        slope = passes.descent(point, source.picked)
        length = slope.flatten(1).norm(dim=1)[:, None, None]  # of each prompt alone
        point = point - stride * slope / length.where(length > 0, torch.ones_like(length))
        run = passes.graph(clean, replaced={INPUT: point})
        sums.add(out, base, source, run, 1 / method.steps)
    return out, base, source


def _two_ends(passes: EdgePasses, sums: Sums, source: Passed) -> tuple[Tensor, Passed, Passed]:
    out = sums.zeros(len(passes.reads.metrics))
    clean = None if passes.runs.clean_is_base else source.picked
    base = passes.graph(clean)
    sums.add(out, base, source, base, 0.5)
    clean = base.picked if passes.runs.clean_is_base else None
    sums.add(out, base, source, passes.graph(clean, source=True), 0.5)
    return out, base, source


def _parts(sums: Sums) -> Iterator[tuple[Place, slice]]:
    """The places whose writes are interpolated, with their writers."""
    yield INPUT, slice(0, 1)
    for layer, block in enumerate(sums.weights.blocks):
        yield ("z", layer), sums.spans.heads(layer)
        if block.mlp is not None:
            mlp = sums.spans.mlp(layer)
            yield ("mlp_out", layer), slice(mlp, mlp + 1)
