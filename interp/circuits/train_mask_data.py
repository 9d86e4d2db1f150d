"""Batches of prompts for training masks: what cut writers write instead, and the clean run's logits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.edge_passes import EdgePasses
from interp.circuits.edge_writes import check_writes, written
from interp.circuits.job import Job
from interp.circuits.train_mask_forward import Soft
from interp.engine.readout import Readout, Reads
from interp.engine.runs import Runs
from interp.models import Model


class Batches:
    """The prompts of a job, drawn without replacement, round by round; steps are drawn by their number."""

    def __init__(self, model: Model, job: Job, size: int, seed: int) -> None:
        self.model, self.job, self.seed = model, job, seed
        self.size = min(size, len(job.runs))

    def draw(self, step: int, constants: Float[Tensor, "writer d_model"] | None) -> tuple[Soft, Tensor]:
        """The model on the prompts of a step, and the clean run's logits at what the metric reads."""
        job = self.job
        runs = job.runs.take(torch.as_tensor(self._prompts(step), device=job.runs.base.device))
        passes = self._passes(runs)
        readout = Readout(job.weights, Reads(runs, (job.metric,)))
        with torch.no_grad():
            base = passes.plain(source=False)
            if step == 0:
                check_writes(job.weights, base, job.budget.facts.name)
            columns = readout.reads.columns
            clean = base.picked if columns is None else base.picked[..., columns]
            fixed = job.ablation.constants if constants is None else constants
            if fixed is None:
                values = passes.plain(source=True).values
                alt = written(job.weights, job.spans, lambda place: values[place])
        if fixed is not None:
            alt = fixed[:, None, None].to(job.weights.W_E)
        return Soft(job.weights, job.spans, runs, readout, alt), clean

    @torch.no_grad()
    def mean_writes(self) -> Float[Tensor, "writer d_model"]:
        """What each writer writes in the corrupt run: the mean over prompts and real positions."""
        total, count = torch.zeros(()), 0
        for start in range(0, len(self.job.runs), self.size):
            runs = self.job.runs.take(slice(start, start + self.size))
            values = self._passes(runs).plain(source=True).values
            writes = written(self.job.weights, self.job.spans, lambda place, values=values: values[place])
            real = torch.arange(runs.n_pos, device=writes.device) < runs.lengths[:, None]  # [prompt, pos]
            total = total.to(writes) + (writes * real[..., None]).sum((1, 2))
            count += int(real.sum())
        return total / count

    def _passes(self, runs: Runs) -> EdgePasses:
        return EdgePasses(self.model, self.job.budget.facts, runs, self.job.metric, lambda passes: None)

    def _prompts(self, step: int) -> np.ndarray:
        """Consecutive parts of one long list: every prompt in a random order, again and again."""
        n, first = len(self.job.runs), step * self.size
        rounds = range(first // n, (first + self.size - 1) // n + 1)
        order = np.concatenate(
            [np.random.default_rng((self.seed, number, 2)).permutation(n) for number in rounds]
        )
        return np.sort(order[first - rounds.start * n :][: self.size])

    def _round(self, number: int) -> np.ndarray:
        return np.random.default_rng((self.seed, number, 2)).permutation(len(self.job.runs))
