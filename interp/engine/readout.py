"""From the final stream to the metrics, computing only the logits they read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.runs import Runs
from interp.models.parts import Weights
from interp.tasks.check import right
from interp.tasks.metrics import Metric, Reading, guarded


@dataclass(frozen=True, eq=False)
class Reads:
    """The positions and vocabulary columns that a set of metrics reads of given runs."""

    runs: Runs
    metrics: tuple[Metric, ...]

    def to(self, device: torch.device) -> Reads:
        """The same on a device: itself where it lies there."""
        runs = self.runs.to(device)
        return self if runs is self.runs else Reads(runs, self.metrics)

    @property
    def everywhere(self) -> bool:
        """Whether some metric reads all positions, or the task several, not only the answer's."""
        return self.runs.reads is not None or any(metric.reads_positions == "all" for metric in self.metrics)

    @property
    def stop(self) -> Int[Tensor, "prompt"]:
        """One past the last position that is read: runs are computed up to it."""
        return self.runs.lengths if self.everywhere else self.runs.positions + 1

    @cached_property
    def columns(self) -> Int[Tensor, "column"] | None:
        """The vocabulary columns that are read, sorted; None for all."""
        if any(metric.reads_columns == "vocabulary" for metric in self.metrics):
            return None
        ids = torch.cat((self.runs.answer, self.runs.wrong), 1).unique()
        return ids[ids >= 0]

    def column(self, ids: Int[Tensor, "prompt k"]) -> Int[Tensor, "prompt k"]:
        """Token ids as indices into the columns read; -1 stays."""
        if self.columns is None:
            return ids
        return torch.where(ids < 0, -1, torch.searchsorted(self.columns, ids.clamp(min=0)))


def evaluate(metric: Metric, reading: Reading) -> Float[Tensor, "item"]:
    """A metric of a reading in float64; ValueError unless it gives one finite number per item."""
    if not torch.isfinite(reading.logits.sum()) and not torch.isfinite(reading.logits).all():
        raise ValueError(
            "the model's logits are not finite: an activation was changed by too much for its dtype, or the "
            "weights overflow. Load the model in float32, or change it by less."
        )
    ours = type(metric).__module__.startswith("interp.")
    value = metric(reading) if ours else guarded(metric.name, metric, reading)
    items = reading.logits.shape[0]
    if not torch.isfinite(value).all():
        first = int((~torch.isfinite(value)).nonzero()[0, 0])
        number = float(value[first].detach())
        raise ValueError(
            f"metric {metric.name!r} is {number} for run {first} of {items}, though logits are "
            "finite. A metric must be finite: mend it, or use one of interp.tasks."
        )
    return value.double()


def measured(
    metric: Metric,
    reads: Reads,
    logits: Tensor,
    clean: Tensor,
    columns: tuple[Tensor, Tensor],
    prompt: Tensor,
) -> Float[Tensor, "item"]:
    """A metric of runs of the given prompts, float64; over several read-outs of a prompt the mean or the sum.

    `logits` and `clean` are [item, column] or, where the reads are everywhere, [item, pos, column]. columns:
    answers and wrong answers of all prompts as indices into the columns.
    """
    runs = reads.runs
    answer, wrong = columns[0][prompt], columns[1][prompt]
    tokens, lengths = runs.clean[prompt], runs.lengths[prompt]
    if not reads.everywhere or metric.reads_positions == "all":
        return evaluate(metric, Reading(logits, clean, answer, wrong, tokens, lengths))
    item = torch.arange(len(prompt), device=prompt.device)
    if runs.reads is None:
        at = runs.positions[prompt]
        return evaluate(metric, Reading(logits[item, at], clean[item, at], answer, wrong, tokens, lengths))
    where = runs.reads[prompt]  # [item, read]
    rows, n = where.clamp(min=0), where.shape[1]
    picked = [part[item[:, None], rows].flatten(0, 1) for part in (logits, clean)]  # [item read, column]
    sides = [torch.where(where[..., None] >= 0, ids.unflatten(1, (n, -1)), 0) for ids in (answer, wrong)]
    sides = [ids.flatten(0, 1) for ids in sides]
    repeated = [part.repeat_interleave(n, 0) for part in (tokens, lengths)]
    value = evaluate(metric, Reading(picked[0], picked[1], *sides, *repeated)).view_as(where)
    total = value.masked_fill(where < 0, 0.0).sum(-1)
    return total if metric.over_reads == "sum" else total / (where >= 0).sum(-1)


def widened(logits: Tensor) -> Tensor:
    """Float32 or better."""
    return logits if logits.dtype == torch.float64 else logits.float()


def clean_right(clean: Tensor, runs: Runs, answer: Tensor, wrong: Tensor) -> np.ndarray:
    """1.0 where the clean run prefers the answers, else 0.0. Their logits are read for every metric.

    `clean` is [prompt, column] or [prompt, pos, column]; answers are indices into its columns.
    """
    if runs.reads is not None:
        row, n = torch.arange(len(runs), device=clean.device)[:, None], runs.reads.shape[1]
        seen = widened(clean[row, runs.reads.clamp(min=0)]).flatten(0, 1)  # [prompt read, column]
        each = right(seen, *(ids.unflatten(1, (n, -1)).flatten(0, 1) for ids in (answer, wrong)))
        return (each.view_as(runs.reads) | (runs.reads < 0)).all(-1).double().cpu().numpy()
    if clean.ndim == 3:
        clean = clean[torch.arange(len(runs), device=clean.device), runs.positions]
    return right(widened(clean), answer, wrong).double().cpu().numpy()


@dataclass(frozen=True, eq=False)
class Scores:
    """The metrics of runs of the model itself, from all of its logits."""

    reads: Reads

    def pick(self, logits: Float[Tensor, "prompt pos vocab"]) -> Tensor:
        """The rows that are read, float32 or better: [prompt, vocab], or all: [prompt, pos, vocab]."""
        if not self.reads.everywhere:
            logits = logits[torch.arange(len(logits), device=logits.device), self.reads.runs.positions]
        return widened(logits)

    def __call__(self, picked: Tensor, clean: Tensor) -> Float[Tensor, "prompt metric"]:
        """Every metric in float64, differentiable in `picked`; `clean` is the picked clean run."""
        runs = self.reads.runs
        prompt, columns = torch.arange(len(runs), device=picked.device), (runs.answer, runs.wrong)
        values = [measured(m, self.reads, picked, clean, columns, prompt) for m in self.reads.metrics]
        return torch.stack(values, -1)

    def clean_right(self, clean: Tensor) -> np.ndarray:
        return clean_right(clean, self.reads.runs, self.reads.runs.answer, self.reads.runs.wrong)


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


class Readout:
    """Final norm, the columns read of the unembedding, and the metrics."""

    def __init__(self, weights: Weights, reads: Reads, whole: bool = False) -> None:
        """whole: all columns, whatever the metrics read."""
        reads = reads.to(weights.W_U.device)
        self.weights, self.reads, self.runs = weights, reads, reads.runs
        columns = None if whole else reads.columns
        self.W_U = weights.W_U if columns is None else weights.W_U[:, columns]
        self.b_U = weights.b_U if columns is None or weights.b_U is None else weights.b_U[columns]
        ids = (self.runs.answer, self.runs.wrong)
        self.answer, self.wrong = ids if columns is None else (reads.column(each) for each in ids)

    def logits(self, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, "row column"]:
        """Float32 or better."""
        return widened(B.unembed(self.weights, stream, self.W_U, self.b_U))

    def whole_runs(self, stream: Float[Tensor, "prompt pos d_model"]) -> Tensor:
        """Logits of unpatched runs at the positions read: [prompt, column] or [prompt, pos, column]."""
        stream = stream.to(self.W_U.device)
        if self.reads.everywhere:
            return self.logits(stream.flatten(0, 1)).unflatten(0, stream.shape[:2])
        return self.logits(stream[torch.arange(len(stream), device=stream.device), self.runs.positions])

    def score(self, logits: Tensor, clean: Tensor, prompt: Tensor) -> Float[Tensor, "item metric"]:
        """Every metric of every item; `logits` and `clean` are [item, column] or [item, pos, column]."""
        columns = (self.answer, self.wrong)
        values = [measured(m, self.reads, logits, clean, columns, prompt) for m in self.reads.metrics]
        return torch.stack(values, -1)
