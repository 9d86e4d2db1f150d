"""The exact effect of every edge: cut it alone and run the rest of the model.

1. Nothing before the reader changes, so the reader of a cut edge u→v sees the base stream plus the gap
   a_u(alt) − a_u: the same for every query of a layer, and every key and value. One norm and one product with
   all heads' weights serve all of them.
2. A cut query, key or value moves its own head's write, a cut MLP input the MLP's: the run enters the stream
   there with that change (`Entered`), and from there on it is an ordinary run.

effect = metric(clean) − metric(cut) for direction "noise", metric(cut) − metric(corrupt) for "denoise", with
the sign turned for metrics where lower is better. Positive: what the clean run sends along the edge helps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from interp._verbs import verb
from interp.ablation import Ablation
from interp.circuits._run import elsewhere
from interp.circuits._run.batch import room, values
from interp.circuits._run.job import Job, prepare, start
from interp.circuits._run.state import Base
from interp.circuits._score.result import node_dataset
from interp.circuits._score.sheet import Sheet
from interp.engine import block as B
from interp.engine.cells import Cells, table
from interp.engine.items import Items
from interp.engine.layout import Layout
from interp.engine.wavefront import Wavefront
from interp.experiment import MEMORY, Experiment, Metrics
from interp.models import Model
from interp.models.parts import MLP
from interp.tasks import Task
from interp.workers import Parcel

_RUNS = 4096  # of a unit: a prompt, but in small models


@verb
def exact(
    model: Model,
    task: Task,
    *,
    ablation: str | Float[Tensor, "constant d_model"] | Ablation = "resample",
    direction: str | None = None,
    metric: Metrics | None = None,
    memory: int = MEMORY,
    store: str | Path | None = None,
    workers: int | None = None,
    executor: Any = None,
    progress: bool = True,
) -> xr.Dataset:
    """The effect of cutting each edge alone.

    ablation, direction, metric: as in `circuits.run`. store: as in `score_edges`. workers, executor: as in
    `interp.patch`; a unit is a prompt.

    Returns a Dataset: `value` with dims prompt, writer, reader (and metric, if there are several), NaN where
    there is no edge, in the unit of the metric, positive where the edge helps; `clean` and `corrupt`, the raw
    metric of both runs.

    Cost: two forwards per prompt, and for each edge the layers after its reader, from the first position that
    differs on. Raises ValueError for anything wrong with the request, before the first forward pass.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.circuits.exact(model, interp.tasks.ioi(model, n=2), progress=False)
        >>> effects["value"].dims
        ('prompt', 'writer', 'reader')
    """
    experiment = prepare(
        model, task, ablation=ablation, direction=direction, metric=metric, memory=memory, store=store,
        workers=workers, executor=executor, progress=progress,
    )  # fmt: skip
    parcel = parcel_of(experiment)  # raises before the first pass
    return exact_edges(start(experiment), parcel)


def parcel_of(experiment: Experiment) -> Parcel | None:
    """What goes to workers; None where the work stays here."""
    return elsewhere.packed(experiment, _of_block)


def exact_edges(job: Job, parcel: Parcel | None = None) -> xr.Dataset:
    """See `exact`. parcel: the same for workers."""
    graph, quiet = job.graph, not job.experiment.budget.progress
    sheet = Sheet(job, "exact", {"engine": "fast"})
    with torch.inference_mode(), sheet.opened():
        units = sheet.blocks(max(1, _RUNS // graph.n_edges))
        total = graph.n_edges * sum(unit.stop - unit.start for unit in units)
        with tqdm(total=total, disable=quiet, desc="exact", unit="run") as bar:
            for block, (each, both) in elsewhere.measured(job, parcel, _of_block, units):
                sheet.take(block, job.experiment.signs * each, both)
                bar.update((block.stop - block.start) * graph.n_edges)
        return sheet.dataset(engine="fast")


def exact_nodes(job: Job) -> xr.Dataset:
    """The effect of cutting all edges out of each writer."""
    graph, n, n_metrics = job.graph, len(job.runs), len(job.metric)
    allowed = graph.allowed.to(job.runs.base.device)
    masks = allowed & ~torch.eye(len(graph.writers), dtype=torch.bool, device=allowed.device)[..., None]
    effects, ends = np.empty((n, len(masks), n_metrics)), np.empty((2, n, n_metrics))
    quiet = not job.experiment.budget.progress
    with tqdm(total=n * len(masks), disable=quiet, desc="exact nodes", unit="run") as bar:
        for block, base in job.bases():
            ends[:, block] = torch.stack((base.values, base.source_values)).cpu().numpy()
            effects[block] = _without_each(job, base, masks) - ends[0, block, None]
            bar.update(len(masks) * len(base.runs))
    clean, corrupt = ends if job.runs.clean_is_base else ends[::-1]
    return node_dataset(effects * job.experiment.signs, clean, corrupt, job, method="exact", engine="fast")


def _without_each(job: Job, base: Base, masks: Tensor) -> np.ndarray:
    """The metrics of every mask: [prompt, mask, metric]."""
    size = job.room.batch_size or room(base, masks, job.room, True)
    parts = [values(base, base.full, masks[i : i + size]) for i in range(0, len(masks), size)]
    return torch.cat(parts).transpose(0, 1).cpu().numpy()


def _of_block(job: Job, block: slice) -> tuple[np.ndarray, np.ndarray]:
    """Raw changes [prompt, writer, reader, metric] of a block, and its runs' metrics [2, prompt, metric]."""
    graph, n, n_metrics = job.graph, block.stop - block.start, len(job.metric)
    values = np.full((n, len(graph.writers), len(graph.readers), n_metrics), np.nan)
    ends = np.empty((2, n, n_metrics))  # base, source
    part = replace(job, runs=job.runs.take(block))
    for some, base in part.bases():
        ends[:, some] = torch.stack((base.values, base.source_values)).cpu().numpy()
        for writers, readers, metrics in _edges(part, base):
            effect = metrics - base.values  # [writer, reader, prompt, metric]
            values[some, writers, readers] = effect.movedim(2, 0).cpu().numpy()
    return values, ends


def _edges(job: Job, base: Base) -> Iterator[tuple[slice, slice, Tensor]]:
    """Writers and readers, and the metrics with each edge cut alone: [writer, reader, prompt, metric]."""
    spans = job.spans
    for layer, block in enumerate(base.weights.blocks):
        stop = spans.heads(layer).start  # the writers before this layer
        middle = block.mlp is not None and not block.parallel
        for part in "qkv":
            readers = spans.part(layer, part)
            for writers in _some(job, base, stop, readers.stop - readers.start):
                change = _by_part(base, layer, part, base.gaps[writers])
                yield writers, readers, _metrics(job, base, 2 * layer + (1 if middle else 2), change)
        if block.mlp is not None:
            reader = spans.mlp_reader(layer)
            for writers in _some(job, base, spans.mlp(layer) if middle else stop, 1):
                change = _by_mlp(base, layer, base.gaps[writers])
                yield writers, slice(reader, reader + 1), _metrics(job, base, 2 * layer + 2, change)
    for writers in _some(job, base, len(spans.graph.writers), 1):
        change = base.gaps[writers][:, None]
        yield (
            writers,
            slice(spans.logits, spans.logits + 1),
            _metrics(job, base, 2 * job.graph.n_layers, change),
        )


def _some(job: Job, base: Base, n_writers: int, n_readers: int) -> Iterator[slice]:
    """Spans of writers, as many at once as fit the memory with all readers of a part."""
    columns = job.facts.d_vocab if base.reads.columns is None else len(base.reads.columns)
    each = job.room.run_bytes(base.runs.n_pos, columns, base.reads.everywhere)
    each += job.room.item_size * 4 * base.width * job.facts.d_model
    size = max(1, int(job.room.limit / 2 / (each * n_readers * len(base.runs))))
    for first in range(0, n_writers, size):
        yield slice(first, min(first + size, n_writers))


def _by_part(
    base: Base, layer: int, part: str, gaps: Tensor
) -> Float[Tensor, "writer reader prompt pos d_model"]:
    """What attention writes beyond the base run when one query, key or value sees one gap."""
    block, state = base.weights.blocks[layer], base.full
    attn, shape = block.attn, gaps.shape[:3]  # writer, prompt, pos
    x = B.normed(block.attn_norm, base.pre[layer] + gaps).flatten(0, 2)
    n = shape[0]
    q, k, v = (
        _repeated(getattr(state, name)[layer], n) for name in "qkv"
    )  # [writer prompt, pos, head, d_head]
    pos = base.pos.repeat(n, 1)  # [writer prompt, pos]
    rows = (torch.arange(len(pos), device=pos.device)[:, None], pos)
    if part == "q":
        new = B.finish(attn, B.project(attn.W_Q, attn.b_Q, x), pos.flatten(), attn.q_norm)
        q = new.unflatten(0, (-1, shape[2]))
    elif part == "k":
        new = B.finish(attn, B.project(attn.W_K, attn.b_K, x), pos.flatten(), attn.k_norm)
        k[rows] = new.unflatten(0, (-1, shape[2]))
    else:
        new = B.value(attn, B.project(attn.W_V, attn.b_V, x))
        v[rows] = new.unflatten(0, (-1, shape[2]))
    z = B.attend(attn, q, k, v, pos[:, None])[1].unflatten(0, shape[:2]) - state.z[layer]
    writes = B.head_writes(attn.W_O, z).transpose(0, 1)  # [writer, head, prompt, pos, d_model]
    shared = 1 if part == "q" else base.spans.graph.group
    return writes if shared == 1 else writes.unflatten(1, (-1, shared)).sum(2)


def _repeated(x: Tensor, n: int) -> Tensor:
    """x [prompt, ...] for each of n writers: [writer prompt, ...], a copy."""
    return x.repeat(n, *(1 for _ in x.shape[1:]))


def _by_mlp(base: Base, layer: int, gaps: Tensor) -> Float[Tensor, "writer 1 prompt pos d_model"]:
    """What the MLP writes beyond the base run when it sees one gap."""
    mlp = cast(MLP, base.weights.blocks[layer].mlp)
    x = base.stream(layer, True) + gaps
    hidden = B.mlp_hidden(mlp, B.normed(mlp.norm, x.flatten(0, 2)))
    return (B.mlp_write(mlp, hidden).view(x.shape) - base.full.mlp[layer])[:, None]


def _metrics(
    job: Job, base: Base, point: int, changes: Float[Tensor, "writer reader prompt pos d_model"]
) -> Float[Tensor, "writer reader prompt metric"]:
    """The metrics of every run that enters at a point with its change."""
    writers, readers, prompts = changes.shape[:3]
    first = base.runs.first_change().cpu().numpy()
    stop = base.reads.stop.cpu().numpy()
    cell, prompt = (x.ravel() for x in np.indices((writers * readers, prompts)))
    start = first[prompt]
    alive = np.flatnonzero(start < stop[prompt])
    columns = (cell, prompt, start, stop[prompt], np.full(len(cell), point))
    items = Items(*(column[alive] for column in columns))
    out = base.values.repeat(writers * readers, 1)  # [item, metric]
    live = torch.as_tensor(alive, device=out.device)
    if len(alive):
        out[live] = measured(base, items, changes.flatten(0, 2)[live])
    return out.view(writers, readers, prompts, -1)


class Entered(Wavefront):
    """Runs whose stream is the base run's plus a change of their own, from the point where they enter on."""

    def __init__(
        self, base: Base, layout: Layout, cells: Cells, changes: Float[Tensor, "item pos d_model"]
    ) -> None:
        super().__init__(base.weights, base.streams, cells, layout, closed_form=True)
        self.changes, self.first = changes, base.pos[:, 0]  # [prompt]

    def _add_changes(self, rows: Tensor, item: Tensor, prompt: Tensor, pos: Tensor) -> None:
        rows += self.changes[item, pos - self.first[prompt]]


def measured(
    base: Base, items: Items, changes: Float[Tensor, "item pos d_model"]
) -> Float[Tensor, "item metric"]:
    """The metrics of each run, float64. `changes` are at the positions that `base` computes."""
    reads, n_layers = base.reads, len(base.weights.blocks)
    layout = Layout(items, n_layers, reads.everywhere, changes.device)
    stream = Entered(base, layout, table([], len(items)), changes).run()
    logits, prompt = base.readout.logits(stream), layout.item_prompt
    if reads.everywhere:  # positions before an item's start are the base run's
        whole = base.full.logits[prompt].clone()  # [item, pos, column]
        whole[layout.final_item, layout.final_pos] = logits
        logits = whole
    return base.readout.score(logits, base.clean_logits[prompt], prompt)
