"""Circuits the slow way: one forward of the whole model for one circuit, every node and every position.

The readable statement of what `run` and `acdc` compute, and what they are measured against.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.ablation import Resample, make_runs
from interp.circuits._graph import Graph, Spans
from interp.circuits._run.ablation import replacements
from interp.circuits._search.decisions import Rule, Step, edge_order
from interp.engine import block as B
from interp.engine.readout import Readout, Reads
from interp.models import Model, weights
from interp.models.parts import MLP, Block
from interp.tasks import Task
from interp.tasks.metrics import KL, Metric


class Reference:
    """A model and a task, ready to run one circuit at a time."""

    def __init__(
        self,
        model: Model,
        task: Task,
        ablation: str | Float[Tensor, "writer d_model"] = "resample",
        metric: Metric | None = None,
        direction: str = "noise",
    ) -> None:
        self.graph = Graph.of(model)
        self.weights, self.spans = weights(model), Spans(self.graph)
        runs = make_runs(model, task, Resample(), direction, ())
        self.tokens, self.everyone = runs.base, torch.arange(len(task), device=runs.base.device)
        self.metric = task.metric if metric is None else metric
        self.readout = Readout(self.weights, Reads(runs, (self.metric,)))
        self.alt = replacements(model, task, ablation, direction=direction)  # [writer, prompt, pos, d_model]
        with torch.inference_mode():
            none = torch.zeros_like(self.graph.allowed)
            clean = self.graph.allowed if runs.clean_is_base else none
            self.clean = self.logits(clean)
        self.forwards = 0

    def __call__(self, mask: Bool[Tensor, "*pos writer reader"]) -> Float[Tensor, "prompt"]:
        """The metric of one circuit."""
        self.forwards += 1
        return self.readout.score(self.logits(mask), self.clean, self.everyone)[:, 0]

    def logits(self, mask: Bool[Tensor, "*pos writer reader"]) -> Tensor:
        """At the positions and columns read."""
        with torch.inference_mode():
            stream = self.weights.embed(self.tokens)  # [prompt, pos, d_model]
            now = stream[None]  # [writer, prompt, pos, d_model]
            for layer, block in enumerate(self.weights.blocks):
                heads = self._heads(layer, block, mask, stream, now)
                bias = 0 if block.attn.b_O is None else block.attn.b_O
                after, written = stream + heads.sum(0) + bias, torch.cat((now, heads))
                if block.mlp is not None:
                    sees = (stream, now) if block.parallel else (after, written)
                    reader = self.spans.mlp_reader(layer)
                    out = self._mlp(block, self._inputs(mask, slice(reader, reader + 1), *sees)[0])
                    after, written = after + out, torch.cat((written, out[None]))
                stream, now = after, written
            end = slice(self.spans.logits, self.spans.logits + 1)
            return self.readout.whole_runs(self._inputs(mask, end, stream, now)[0])

    def _inputs(self, mask: Tensor, readers: slice, stream: Tensor, now: Tensor) -> Tensor:
        """The stream less what cut edges carry beyond their replacement: [reader, prompt, pos, d_model]."""
        cut = (~mask[..., : len(now), readers]).to(now.dtype)  # [(pos,) writer, reader]
        axes = "uv,uptd->vptd" if cut.ndim == 2 else "tuv,uptd->vptd"
        return stream - torch.einsum(axes, cut, now - self.alt[: len(now)])

    def _heads(self, layer: int, block: Block, mask: Tensor, stream: Tensor, now: Tensor) -> Tensor:
        attn = block.attn
        parts = (
            (attn.W_Q, attn.b_Q, attn.q_norm),
            (attn.W_K, attn.b_K, attn.k_norm),
            (attn.W_V, attn.b_V, None),
        )
        made = []
        for part, (W, b, norm) in zip("qkv", parts):
            x = self._inputs(mask, self.spans.part(layer, part), stream, now)
            x = B.normed(block.attn_norm, x).flatten(1, 2)  # [head, prompt pos, d_model]
            x = (torch.bmm(x, W) if b is None else torch.baddbmm(b[:, None], x, W)).transpose(0, 1)
            x = x.unflatten(0, stream.shape[:2])  # [prompt, pos, head, d_head]
            made.append(B.value(attn, x) if part == "v" else B.finish_runs(attn, x, norm))
        q, k, v = made
        z = B.attend(attn, q, k, v, torch.arange(stream.shape[1], device=stream.device))[1]
        return B.head_writes(attn.W_O, z)

    def _mlp(self, block: Block, x: Tensor) -> Tensor:
        mlp = cast(MLP, block.mlp)
        hidden = B.mlp_hidden(mlp, B.normed(mlp.norm, x.flatten(0, 1)))
        return B.mlp_write(mlp, hidden).view(x.shape)


def acdc_one_by_one(
    model: Model,
    task: Task,
    threshold: float,
    *,
    ablation: str = "resample",
    metric: Metric | None = None,
    absolute: bool = False,
    order: str = "late",
) -> tuple[list[Step], int]:
    """ACDC as it is written down: the decisions in order, and the forwards that they took."""
    run, rule = (
        Reference(model, task, ablation, KL() if metric is None else metric),
        Rule(threshold, absolute),
    )
    graph, mask = run.graph, run.graph.allowed.clone()
    sign = -1.0 if run.metric.better == "higher" else 1.0
    loss, steps = sign * float(run(mask).mean()), []
    owners = graph.owners[:, :-1].numpy()  # [reader, writer]
    for writer, reader in edge_order(graph, order).tolist():
        nodes = np.flatnonzero(owners[reader])
        value, kept = math.nan, False
        mask[writer, reader] = False
        if not len(nodes) or mask[nodes].any():
            value = float(run(mask).mean())
            kept = not rule.cuts(sign * value - loss)
            mask[writer, reader] = kept
            loss = loss if kept else sign * value
        steps.append(Step(graph.name(writer, reader), value, kept))
    return steps, run.forwards
