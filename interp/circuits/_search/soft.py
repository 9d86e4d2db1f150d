"""The model with soft edges, differentiable in the mask and in the constants of learned ablation.

Reader v sees  x_v = resid − Σ_u (1 − m_uv) (a_u − a_u(alt)),  before the norm, with any m from 0 to 1. At
m = 0 or 1 it is `circuits.run`. Every node is computed at every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits._graph import Spans
from interp.circuits._run.job import Job
from interp.circuits._score.passes import EdgePasses
from interp.circuits._score.sums import written
from interp.engine import block as B
from interp.engine.block import head_writes
from interp.engine.forward import through_blocks
from interp.engine.readout import Readout, Reads
from interp.engine.runs import Runs
from interp.models.parts import Block, Norm, Weights


class Batches:
    """The prompts of a job, drawn without replacement, round by round; steps are drawn by their number."""

    def __init__(self, job: Job, size: int, seed: int) -> None:
        self.job, self.seed = job, seed
        self.size = min(size, len(job.runs))

    def draw(self, step: int, constants: Float[Tensor, "writer d_model"] | None) -> tuple[Soft, Tensor]:
        """The model on the prompts of a step, and the clean run's logits at what the metric reads."""
        job = self.job
        runs = job.runs.take(torch.as_tensor(self._prompts(step), device=job.runs.base.device))
        passes = self._passes(runs)
        readout = Readout(job.weights, Reads(runs, job.metric))
        with torch.no_grad():
            clean = passes.plain(source=False).picked
            fixed = job.constants if constants is None else constants
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
        job = self.job
        return EdgePasses(job.experiment.model, job.facts, runs, job.metric, weights=job.weights)

    def _prompts(self, step: int) -> np.ndarray:
        """Consecutive parts of one long list: every prompt in a random order, again and again."""
        n, first = len(self.job.runs), step * self.size
        rounds = range(first // n, (first + self.size - 1) // n + 1)
        order = np.concatenate(
            [np.random.default_rng((self.seed, number, 2)).permutation(n) for number in rounds]
        )
        return np.sort(order[first - rounds.start * n :][: self.size])


Mask = Float[Tensor, "some writer any"]  # some: prompts, or 1 for all; any: readers, or 1 for all of them


@dataclass(frozen=True, eq=False)
class Soft:
    """Some prompts; `alt`: what cut writers write instead, the same everywhere where it has 1 for an axis."""

    weights: Weights
    spans: Spans
    runs: Runs
    readout: Readout
    alt: Float[Tensor, "writer some any d_model"]

    def logits(self, mask: Mask) -> Tensor:
        """At the positions and columns that the metric reads."""
        alone = _Pass(self, 1 - mask)
        stream = self.weights.embed(self.runs.base)  # [prompt, pos, d_model]
        alone.keep(stream[None], slice(0, 1))
        stream = through_blocks(self.weights, stream.flatten(0, 1), alone.attend, alone.tap)
        return self.readout.whole_runs(alone.inputs(self.spans.logits, stream))

    def score(self, logits: Tensor, clean: Tensor) -> Float[Tensor, "prompt"]:
        """The metric of each prompt, float64."""
        prompt = torch.arange(len(self.runs), device=logits.device)
        return self.readout.score(logits, clean, prompt)[:, 0]


class _Pass:
    """One pass over the blocks in which every reader has an input of its own."""

    def __init__(self, soft: Soft, cut: Mask) -> None:
        self.soft, self.cut, self.spans = soft, cut, soft.spans
        self.size = tuple(soft.runs.base.shape)
        self.gaps: list[Tensor] = []  # of the writers so far: [writer, prompt, pos, d_model]
        self.waiting: list[Tensor] = []  # of heads that a parallel MLP does not see

    def keep(self, now: Tensor, rows: slice) -> None:
        """Add what writers write beyond what they would be replaced by."""
        self.gaps.append(now - self.soft.alt[rows])

    def inputs(self, reader: int, x: Tensor) -> Float[Tensor, "prompt pos d_model"]:
        """What one reader sees of the stream [prompt · pos, d_model]."""
        readers = slice(reader, reader + 1)
        return inputs(self.cut, readers, x.unflatten(0, self.size), self.gaps)[0]

    def tap(self, site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if site == "mlp_in":
            return self.inputs(self.spans.mlp_reader(layer), tensor).flatten(0, 1)
        if site == "mlp_out":
            self.gaps += self.waiting
            self.waiting = []
            writer = self.spans.mlp(layer)
            self.keep(tensor.unflatten(0, self.size)[None], slice(writer, writer + 1))
        return tensor

    def attend(self, block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
        """z [prompt · pos, head, d_head], from what each query, key and value sees."""
        attn, stream, parts = block.attn, x.unflatten(0, self.size), {}
        projections: dict[str, tuple[Tensor, Tensor | None, Norm | None]] = {
            "q": (attn.W_Q, attn.b_Q, attn.q_norm),
            "k": (attn.W_K, attn.b_K, attn.k_norm),
            "v": (attn.W_V, attn.b_V, None),
        }
        for part, (W, b, norm) in projections.items():
            seen = inputs(self.cut, self.spans.part(layer, part), stream, self.gaps)
            seen = B.normed(block.attn_norm, seen).flatten(1, 2).expand(len(W), -1, -1)
            out = torch.bmm(seen, W) if b is None else torch.baddbmm(b[:, None], seen, W)
            out = out.transpose(0, 1).unflatten(0, self.size)  # [prompt, pos, head, d_head]
            parts[part] = B.value(attn, out) if part == "v" else B.finish_runs(attn, out, norm)
        pos = torch.arange(self.size[1], device=x.device)
        z = B.attend(attn, parts["q"], parts["k"], parts["v"], pos)[1]
        self.keep(head_writes(attn.W_O, z), self.spans.heads(layer))
        if block.parallel and block.mlp is not None:
            self.waiting = [self.gaps.pop()]
        return z.flatten(0, 1)


def inputs(
    cut: Mask, readers: slice, stream: Float[Tensor, "prompt pos d_model"], gaps: Sequence[Tensor]
) -> Float[Tensor, "reader prompt pos d_model"]:
    """What some readers see; one row for all of them where the mask does not tell them apart."""
    cut = cut if cut.shape[-1] == 1 else cut[..., readers]
    x, first = stream[None], 0
    for gap in gaps:  # [writer, prompt, pos, d_model]
        share = cut[:, first : first + len(gap)].transpose(1, 2).to(gap)  # [prompt or 1, reader, writer]
        if len(share) == 1:
            change = (share[0] @ gap.flatten(1)).unflatten(1, gap.shape[1:])
        else:
            change = torch.bmm(share, gap.flatten(2).transpose(0, 1)).transpose(0, 1)
            change = change.unflatten(2, gap.shape[2:])
        x, first = x - change, first + len(gap)
    return x
