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

from interp.circuits._run.job import Job
from interp.circuits._score.passes import EdgePasses, Passed, wide
from interp.circuits._score.result import edge_dataset
from interp.circuits._score.sums import written
from interp.engine.runs import Runs

_CONVENTION = "share of what the reader sees that comes from the writer, 0 to 1; no metric, no sign"


def flow_routes(job: Job, positions: bool) -> xr.Dataset:
    """Shares [prompt, (pos,) writer, reader]. Cost: one forward by prompt and metric, which says where it is
    read."""
    with torch.inference_mode(False), torch.no_grad():
        parts = [_by_metric(alone, positions) for alone in job.by_metric()]
    values, clean = (np.stack(arrays, -1) for arrays in zip(*parts))
    lead = ("prompt", "pos") if positions else ("prompt",)
    out = edge_dataset(
        values, clean, np.full_like(clean, np.nan), job, lead, method="flow-routes", forwards=1, backwards=0
    )
    words = {"unit": ", ".join(["share"] * len(job.metric)), "ablation": "none"}
    words["engine"] = "reference" if job.experiment.budget.engine == "reference" else "fast"
    return out.assign_attrs(convention=_CONVENTION, **words)


def _by_metric(job: Job, positions: bool) -> tuple[np.ndarray, np.ndarray]:
    """Shares [prompt, (pos,) writer, reader], and the clean metric [prompt]."""
    graph, n = job.graph, len(job.runs)
    pos = (job.runs.n_pos,) if positions else ()
    values = np.zeros((n, *pos, len(graph.writers), len(graph.readers)))
    clean, size = np.empty(n), _prompts(job)
    with tqdm(total=n, disable=not job.experiment.budget.progress, desc="flow-routes", unit="prompt") as bar:
        for first in range(0, n, size):
            block = slice(first, min(first + size, n))
            runs = job.runs.take(block)
            hooks = job.experiment.budget.engine == "reference"
            weights = None if hooks else job.weights
            passes = EdgePasses(job.experiment.model, job.facts, runs, job.metric, weights=weights)
            run = passes.plain(source=False)
            clean[block] = passes.measure(run.picked, run.picked)[:, 0].cpu().numpy()
            for writers, readers, share in shares(job, passes, run):
                share = share if positions else share.sum(1)
                values[block][..., writers, readers] = share[..., None].cpu().numpy()
            bar.update(block.stop - block.start)
    return values, clean


def shares(
    job: Job, passes: EdgePasses, run: Passed
) -> Iterator[tuple[slice, slice, Float[Tensor, "prompt pos writer"]]]:
    """Writers, the readers that see the same of them, and their shares, weighted so that positions add up."""
    spans, reads = job.spans, passes.reads
    writes = written(
        job.weights, spans, lambda place: wide(run.values[place])
    )  # [writer, prompt, pos, d_model]
    reach, read = _weights(passes.runs, reads.stop, reads.everywhere)
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


def _prompts(job: Job) -> int:
    """Prompts at once."""
    room, facts, n_pos = job.room, job.facts, job.runs.n_pos
    each = room.item_size * n_pos * facts.d_model * (len(job.graph.writers) + 4 * facts.n_layers)
    each += room.item_size * n_pos * facts.d_vocab
    prompts = max(1, room.limit // (2 * each))
    return prompts if room.batch_size is None else min(prompts, room.batch_size)
