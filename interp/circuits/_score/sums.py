"""Scores of all edges from one run: what a cut brings to its reader, times the slope in what the reader sees.

Writers and readers meet a block of positions at a time, so that what is held beside the run stays small.

What writers add to the stream, and what of it an ablation changes, is [writer, prompt, pos, d_model]. Heads
go through z, so that no layer keeps what each of its heads writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits._graph import Spans
from interp.circuits._score.passes import INPUT, Passed, Place, wide
from interp.circuits._score.readers import Readers, readers
from interp.engine.block import head_writes
from interp.engine.runs import Runs
from interp.models.parts import Weights


@dataclass(frozen=True, eq=False)
class Sums:
    """How edges of some prompts are scored.

    at_once: positions. by_pos: keep positions apart, or "span": sum over each of the task's spans. kind: of
    slopes through norms, see `readers.py`.
    """

    weights: Weights
    spans: Spans
    runs: Runs
    constants: Tensor | None
    stop: int  # one past the last position that any metric reads
    at_once: int
    by_pos: bool | str
    kind: str = "gradient"

    @property
    def marks(self) -> Bool[Tensor, "prompt span pos"] | None:
        """The spans that are kept apart."""
        return self.runs.spans if self.by_pos == "span" else None

    def zeros(self, n_metrics: int) -> Float[Tensor, "metric prompt *pos writer reader"]:
        graph = self.spans.graph
        pos = () if not self.by_pos else (self.runs.n_pos if self.marks is None else self.marks.shape[1],)
        shape = (n_metrics, len(self.runs), *pos, len(graph.writers), len(graph.readers))
        return torch.zeros(shape, dtype=torch.float64, device=self.runs.base.device)

    @torch.no_grad()
    def add(
        self,
        out: Float[Tensor, "metric prompt *pos writer reader"],
        base: Passed,
        source: Passed,
        run: Passed,
        weight: float = 1.0,
        rows: slice = slice(None),
    ) -> None:
        """Add weight · (what the source has in place of a writer − what the base run has) · slope of `run`.

        rows: the writers that are scored, consecutive.
        """
        first = self.runs.first_change()
        other = source if self.kind == "secant" else None
        for span in self._blocks(first):
            change = differences(
                self.weights, self.spans, base, source, self.constants, first, span, rows
            )  # [writer, prompt, pos, d_model]
            for metric, scores in enumerate(out):
                for part in readers(self.weights, self.spans, run, metric, self.kind, other, span):
                    self._add(scores, change, part, weight, span, rows)

    def _add(
        self, scores: Tensor, change: Tensor, part: Readers, weight: float, span: slice, rows: slice
    ) -> None:
        """Of some readers, into scores [prompt, (pos,) writer, reader]."""
        writers = slice(*rows.indices(part.n_writers)[:2])
        if writers.start >= writers.stop:
            return
        if self.marks is not None:
            for number, marks in enumerate(self.marks[:, :, span].unbind(1)):
                inside = change[writers] * marks[None, :, :, None]
                scores[:, number, writers, part.index] += weight * products(inside, part.slope)
        elif self.by_pos:
            scores[:, span, writers, part.index] += weight * products_by_pos(change[writers], part.slope)
        else:
            scores[:, writers, part.index] += weight * products(change[writers], part.slope)

    def _blocks(self, first: Tensor) -> Iterator[slice]:
        """The positions where anything changes that can matter, some at a time."""
        for start in range(int(first.min()), self.stop, self.at_once):
            yield slice(start, min(start + self.at_once, self.stop))


def products(
    change: Float[Tensor, "writer prompt pos d"], slope: Float[Tensor, "reader prompt pos d"]
) -> Float[Tensor, "prompt writer reader"]:
    """Summed over positions."""
    left = change.flatten(2).transpose(0, 1)  # [prompt, writer, pos d]
    return torch.bmm(left, slope.flatten(2).permute(1, 2, 0))


def products_by_pos(
    change: Float[Tensor, "writer prompt pos d"], slope: Float[Tensor, "reader prompt pos d"]
) -> Float[Tensor, "prompt pos writer reader"]:
    """Position by position."""
    left = change.flatten(1, 2).transpose(0, 1)  # [prompt pos, writer, d]
    right = slope.flatten(1, 2).permute(1, 2, 0)  # [prompt pos, d, reader]
    return torch.bmm(left, right).unflatten(0, change.shape[1:3])


def written(
    weights: Weights, spans: Spans, activation: Callable[[Place], Tensor], rows: slice = slice(None)
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What writers make of activations (or of differences: the biases of attention are nobody's write).

    Writers outside `rows` are not computed.
    """
    first = activation(INPUT)
    wanted = range(len(spans.graph.writers))[rows]
    every = len(wanted) == len(spans.graph.writers)
    out = (first.new_empty if every else first.new_zeros)(len(spans.graph.writers), *first.shape)
    if 0 in wanted:
        out[0] = first
    for layer, block in enumerate(weights.blocks):
        heads, mlp = spans.heads(layer), spans.mlp(layer)
        if heads.start in wanted:
            head_writes(block.attn.W_O.to(first), activation(("z", layer)), out[heads])
        if block.mlp is not None and mlp in wanted:
            out[mlp] = activation(("mlp_out", layer))
    return out


def differences(
    weights: Weights,
    spans: Spans,
    base: Passed,
    source: Passed,
    constants: Tensor | None,
    first: Tensor,
    span: slice,
    rows: slice = slice(None),
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What the ablation puts in place of each writer, less what it writes in the base run, float32 or better.

    first: the first position of each prompt at which the runs can differ; before it there is only rounding.
    """
    pos = torch.arange(span.start, span.stop, device=first.device)
    later = pos >= first[:, None]  # [prompt, pos]
    if constants is not None:
        now = written(weights, spans, lambda at: wide(base.values[at][:, span]), rows)
        return (constants.to(now)[:, None, None] - now).mul_(later[..., None])

    def change(place: Place) -> Tensor:
        out = wide(source.values[place][:, span]) - wide(base.values[place][:, span])
        return out.mul_(later.view(*later.shape, *[1] * (out.ndim - 2)))

    return written(weights, spans, change, rows)
