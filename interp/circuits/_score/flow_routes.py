"""Information-flow routes: each writer's share of what a reader sees (Ferrando & Voita 2024, 2403.00824).

For a reader whose input is x, before the norm, and a writer that adds a to it,

    importance = max(0, ‖x‖₁ − ‖x − a‖₁)

divided by its sum over the writers before the reader. One clean run; no corruption, no metric, no sign: a
score is a share, 0 to 1, the mean over the positions that can reach what the metric reads (for `logits` over
the positions that it does read). Queries, keys and values of a layer see the same stream and have the same
shares.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp.circuits._graph import Graph, Spans
from interp.circuits._run.ablation import Ablation
from interp.circuits._run.job import Job, trusted_weights
from interp.circuits._score.passes import EdgePasses, Passed, wide
from interp.circuits._score.result import scored_edges
from interp.circuits._score.sums import written
from interp.engine.memory import Budget
from interp.engine.runs import Runs
from interp.models import Model
from interp.patching.corruption import Zero, make_runs
from interp.tasks import Task
from interp.tasks.metrics import Metric

_CONVENTION = "share of what the reader sees that comes from the writer, 0 to 1; no metric, no sign"


def flow_routes(
    model: Model, task: Task, metric: Metric, positions: bool, budget: Budget, progress: bool
) -> xr.Dataset:
    """Shares [prompt, (pos,) writer, reader]. Cost: one forward by prompt. `metric` says where it is read."""
    with torch.inference_mode(False), torch.no_grad():
        runs = make_runs(model, task, Zero(), "noise", ()).outside_inference()
        blocks = trusted_weights(model, budget.facts, runs)
        job = Job(blocks, Spans(Graph.of(model)), runs, metric, Ablation("zero"), budget)
        graph, n = job.graph, len(task)
        pos = (runs.n_pos,) if positions else ()
        values = np.zeros((n, *pos, len(graph.writers), len(graph.readers)))
        clean = np.empty(n)
        size = _prompts(budget, runs.n_pos, graph)
        with tqdm(total=n, disable=not progress, desc="flow-routes", unit="prompt") as bar:
            for start in range(0, n, size):
                block = slice(start, min(start + size, n))
                passes = EdgePasses(model, budget.facts, runs.take(block), metric, lambda passes: None)
                run = passes.plain(source=False)
                clean[block] = passes.measure(run.picked, run.picked).cpu().numpy()
                for writers, readers, found in shares(job, passes, run):
                    found = found if positions else found.sum(1)
                    values[block][..., writers, readers] = found[..., None].cpu().numpy()
                bar.update(block.stop - block.start)
    missing = np.full(n, np.nan)
    out = scored_edges(
        values, clean, missing, job, task, "noise", method="flow-routes", forwards=1, backwards=0
    )
    return out.assign_attrs(convention=_CONVENTION, unit="share", ablation="none")


def shares(
    job: Job, passes: EdgePasses, run: Passed
) -> Iterator[tuple[slice, slice, Float[Tensor, "prompt pos writer"]]]:
    """Writers, the readers that see the same of them, and their shares, weighted so that positions add up."""
    spans, scores = job.spans, passes.scores
    writes = written(
        job.weights, spans, lambda place: wide(run.values[place])
    )  # [writer, prompt, pos, d_model]
    reach, read = _weights(passes.runs, scores.reads.stop, scores.reads.everywhere)
    for layer, block in enumerate(job.weights.blocks):
        before = slice(0, spans.heads(layer).start)
        stream = wide(run.values["resid_pre", layer])
        found = importance(writes[before], stream) * reach[..., None]
        yield before, spans.attention(layer), found
        if block.mlp is not None:
            reader = slice(spans.mlp_reader(layer), spans.mlp_reader(layer) + 1)
            if not block.parallel:
                before = slice(0, spans.mlp(layer))
                stream = wide(run.values["resid_mid", layer])
                found = importance(writes[before], stream) * reach[..., None]
            yield before, reader, found
    biases = [block.attn.b_O for block in job.weights.blocks if block.attn.b_O is not None]
    stream = writes.sum(0) + sum(bias.to(writes) for bias in biases)
    yield slice(None), slice(spans.logits, spans.logits + 1), importance(writes, stream) * read[..., None]


def importance(
    writes: Float[Tensor, "writer prompt pos d_model"], stream: Float[Tensor, "prompt pos d_model"]
) -> Float[Tensor, "prompt pos writer"]:
    """Shares of the writers in the stream; all 0 where nobody brings the sum nearer."""
    size = stream.abs().sum(-1)
    near = torch.stack([(size - (stream - one).abs().sum(-1)).clamp(min=0) for one in writes], -1)
    total = near.sum(-1, keepdim=True)
    return near / total.where(total > 0, torch.ones_like(total))


def _weights(runs: Runs, stop: Tensor, everywhere: bool) -> tuple[Tensor, Tensor]:
    """The weight of each position for inner readers, and for logits: [prompt, pos]; they sum to 1."""
    pos = torch.arange(runs.n_pos, device=stop.device)
    reach = (pos < stop[:, None]).double()
    read = reach if everywhere else (pos == runs.positions[:, None]).double()
    return reach / reach.sum(1, keepdim=True), read / read.sum(1, keepdim=True)


def _prompts(budget: Budget, n_pos: int, graph: Graph) -> int:
    each = budget.item_size * n_pos * budget.facts.d_model * (len(graph.writers) + 4 * budget.facts.n_layers)
    each += budget.item_size * n_pos * budget.facts.d_vocab_out
    found = max(1, budget.limit // (2 * each))
    return found if budget.batch_size is None else min(found, budget.batch_size)
