"""Run D: the own run with the receivers' inputs as run C left them, nothing frozen; then the metrics.

1. A receiver's input is norm(x + Δ), x the own run's stream and Δ what C changed. `norm="frozen"` divides by
   the own run's scale instead: norm(x) + Δ / scale.
2. The first receivers of a cell change only their own writes: of a head the scores and z, then its part of
   W_O; of an MLP its output. The run enters the stream there with that change, as in exact patching.
3. Receivers of later layers are put in on the way: what C gave in place of what they would read
   (combine="replace"), or Δ on top of it ("add").
4. All senders and receivers run as one wavefront; only the logits that the metrics read are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.cells import table
from interp.engine.items import Items
from interp.engine.layout import Layout
from interp.engine.readout import Readout
from interp.engine.wavefront import Wavefront
from interp.models import Anatomy
from interp.models.parts import MLP, Norm
from interp.paths._attending import Attending, alone, received
from interp.paths._carry import Batch, Deltas
from interp.paths._ends import Cell, read_at
from interp.places import Place


@dataclass(frozen=True)
class Stage:
    """The receivers of a cell that read at one time."""

    time: int
    layer: int
    places: tuple[Place, ...]

    def of(self, site: str) -> list[Place]:
        return [place for place in self.places if place.site == site]

    def query_heads(self, share: int) -> list[int]:
        """The heads whose z changes: those of the queries, and the `share` heads that read a key or value."""
        found = set()
        for place in self.places:
            if place.head is not None:
                first = place.head if place.site == "q" else place.head * share
                found |= {first + i for i in range(1 if place.site == "q" else share)}
        return sorted(found)

    @property
    def attends(self) -> bool:
        return any(place.site in "qkv" for place in self.places)


def stages(facts: Anatomy, cell: Cell) -> list[Stage]:
    """The receivers of a cell in order of time."""
    by_time: dict[int, list[Place]] = {}
    for place in cell.places:
        by_time.setdefault(read_at(facts, place), []).append(place)
    return [Stage(time, time // 2, tuple(by_time[time])) for time in sorted(by_time)]


def receive(
    batch: Batch, deltas: Deltas, cells: Sequence[Cell], first: Int[np.ndarray, "sender"]
) -> Float[np.ndarray, "sender receiver prompt metric"]:
    """Metrics of every sender and receiver cell on the prompts of a batch; first: when each sender writes."""
    ready = batch.ready
    base = ready.base[batch.prompts.cpu().numpy()]  # [prompt, metric]
    out = np.broadcast_to(base, (len(first), len(cells), *base.shape)).copy()
    entries = _entries(batch, deltas, cells, first)
    if not entries:
        return out
    changes = torch.cat([entry.changes for entry in entries])
    columns = [np.concatenate([getattr(e, name) for e in entries]) for name in ("sender", "prompt", "cell")]
    stage = np.concatenate([np.full(len(e.sender), e.stage) for e in entries])
    point = np.concatenate([np.full(len(e.sender), e.point) for e in entries])
    order = np.argsort(point, kind="stable")
    prompts = batch.prompts.cpu().numpy()[columns[1]]
    start, stop = (np.full(len(order), at) for at in (int(batch.rows[0]), batch.stop))
    items = Items(order, prompts[order], start, stop, point[order])
    for some in ready.budget.batches(items, ready.reads):
        mine = some.cell  # numbers of the entries' rows
        runs = Runs(*(column[mine] for column in (*columns, stage)))
        rows = torch.as_tensor(mine, device=changes.device)
        values = Receiving(batch, deltas, cells, some, runs, changes[rows]).metrics()
        out[runs.sender, runs.cell, runs.prompt] = values
    return out


@dataclass(frozen=True)
class Runs:
    """One D a row: its sender, its prompt in the batch, its cell of receivers, and the stage it enters at."""

    sender: np.ndarray
    prompt: np.ndarray
    cell: np.ndarray
    stage: np.ndarray


@dataclass(frozen=True, eq=False)
class Entry:
    """Runs that enter at one point, with what the stream changes there: [item, pos, d_model]."""

    sender: np.ndarray
    prompt: np.ndarray
    cell: np.ndarray
    stage: int
    point: int
    changes: Tensor


def _entries(batch: Batch, deltas: Deltas, cells: Sequence[Cell], first: np.ndarray) -> list[Entry]:
    """The runs that differ from the own run, cell by cell; a sender enters at the stage it first reaches."""
    found = []
    for number, cell in enumerate(cells):
        steps = stages(batch.facts, cell)
        enters = (np.array([step.time for step in steps])[None] < first[:, None]).sum(1)  # [sender]
        for stage in np.unique(enters[enters < len(steps)]).tolist():
            senders = np.flatnonzero(enters == stage)
            index = torch.as_tensor(senders, device=batch.rows.device)
            alive = torch.stack([_alive(batch, deltas, step, index) for step in steps[stage:]]).any(0)
            sender, prompt = alive.cpu().numpy().nonzero()
            if len(sender):
                changes = Change(batch, deltas, steps[stage], index[alive.any(1)]).of()
                rows = alive[alive.any(1)]
                of = (senders[sender], prompt, np.full(len(sender), number))
                found.append(Entry(*of, stage, _point(batch.facts, steps[stage]), changes[rows]))
    return found


def _alive(batch: Batch, deltas: Deltas, step: Stage, senders: Tensor) -> Tensor:
    """Whether anything comes to a receiver of a stage: [sender, prompt]."""
    marks = torch.stack([batch.marks(place, sending=False) for place in step.places]).any(0)
    at_own_position = not (step.of("k") or step.of("v"))
    if at_own_position and step.layer >= batch.facts.n_layers - 1 and not batch.ready.reads.everywhere:
        marks = marks & (batch.rows == batch.stop - 1)  # only what is read is still needed
    return (deltas[step.time][senders].any(-1) & marks).any(-1)


def _point(facts: Anatomy, step: Stage) -> int:
    """The point of the stream that a stage's receivers change."""
    if step.layer == facts.n_layers:
        return 2 * step.layer
    has_middle = not facts.attn_only and not facts.parallel
    return 2 * step.layer + (1 if has_middle and step.attends else 2)


class Change:
    """What the receivers of one stage write beyond the own run, for some senders."""

    def __init__(self, batch: Batch, deltas: Deltas, stage: Stage, senders: Tensor) -> None:
        self.batch, self.stage = batch, stage
        self.delta = deltas[stage.time][senders]  # [sender, prompt, row, d_model]
        self.first, self.last = int(batch.rows[0]), stage.layer == batch.facts.n_layers - 1

    def of(self) -> Float[Tensor, "sender prompt pos d_model"]:
        """At the positions from the first row to the last that is read."""
        shape = (*self.delta.shape[:2], self.batch.stop - self.first, self.delta.shape[-1])
        out = self.delta.new_zeros(shape)
        if self.stage.layer == self.batch.facts.n_layers:
            return out  # the logits: put in at the end
        if self.stage.attends:
            self._attention(out)
        mlp = self.batch.ready.weights.blocks[self.stage.layer].mlp
        for place in self.stage.of("mlp_out"):
            assert mlp is not None
            out[:, :, self.batch.rows - self.first] += self._mlp(mlp, place)
        return out

    @cached_property
    def pos(self) -> Int[Tensor, "query"]:
        """Positions at which attention's write can differ and is needed."""
        batch = self.batch
        if self.last and not batch.ready.reads.everywhere:
            return batch.rows.new_tensor([batch.stop - 1])
        if self.stage.of("k") or self.stage.of("v"):
            return torch.arange(self.first, batch.stop, device=batch.rows.device)
        return batch.rows

    def _mlp(self, mlp: MLP, place: Place) -> Float[Tensor, "sender prompt row d_model"]:
        batch, change = self.batch, torch.zeros_like(self.delta)
        moved = self.delta.any(-1) & batch.marks(place, sending=False)
        sender, prompt, row = moved.nonzero(as_tuple=True)
        x = batch.stream(self.stage.time)[prompt, row]
        h = received(mlp.norm, x, self.delta[sender, prompt, row], batch.ends.norm)
        new = B.mlp_write(mlp, B.mlp_hidden(mlp, h))
        change[sender, prompt, row] = new - batch.own("mlp_out", self.stage.layer)[prompt, row]
        return change

    def _attention(self, out: Tensor) -> None:
        batch, layer = self.batch, self.stage.layer
        block = batch.ready.weights.blocks[layer]
        share = batch.facts.n_heads // batch.facts.n_key_value_heads
        heads = self.stage.query_heads(share)
        index = torch.as_tensor(heads, device=out.device)
        attn = alone(block.attn, index, share)
        z = Attending(self, attn, index, share).z()  # [sender, prompt, query, head, d_head]
        own = batch.ready.saved.base["z", layer][batch.prompts[:, None], self.pos][:, :, index]
        write = (z - own).flatten(-2) @ attn.W_O.flatten(0, 1)
        if block.attn_out_norm is not None:
            whole = batch.ready.saved.base["z", layer][batch.prompts[:, None], self.pos].flatten(-2)
            before = whole @ block.attn.W_O.flatten(0, 1)
            before = before if block.attn.b_O is None else before + block.attn.b_O
            write = block.attn_out_norm(before + write) - block.attn_out_norm(before)
        out[:, :, self.pos - self.first] += write


class Receiving(Wavefront):
    """Runs D on their way through the model: receivers after the first are put in by taps."""

    def __init__(
        self,
        batch: Batch,
        deltas: Deltas,
        cells: Sequence[Cell],
        items: Items,
        runs: Runs,
        changes: Float[Tensor, "item pos d_model"],
    ) -> None:
        ready, device = batch.ready, changes.device
        layout = Layout(items, len(ready.weights.blocks), ready.reads.everywhere, device)
        super().__init__(ready.weights, ready.saved, table([], len(items)), layout, closed_form=True)
        self.batch, self.deltas, self.changes = batch, deltas, changes
        self.sender, self.prompt = (torch.as_tensor(x, device=device) for x in (runs.sender, runs.prompt))
        self.row_of = torch.full((ready.runs.n_pos,), -1, device=device)
        self.row_of[batch.rows] = torch.arange(len(batch.rows), device=device)
        self.later: dict[int, list[tuple[Stage, Tensor]]] = {}  # by time: and which items it is put into
        for number, cell in enumerate(cells):
            for index, stage in enumerate(stages(batch.facts, cell)):
                at_end = stage.layer == batch.facts.n_layers
                mine = (runs.cell == number) & (runs.stage < index + int(at_end))
                if mine.any():
                    waiting = self.later.setdefault(stage.time, [])
                    waiting.append((stage, torch.as_tensor(mine, device=device)))
        self.seen: dict[int, Tensor] = {}  # by time: D's own stream
        if self.later:
            self.tap = self._put_in

    def metrics(self) -> Float[np.ndarray, "item metric"]:
        """Of every run, float64."""
        ready, layout = self.batch.ready, self.layout
        logits = self._logits(self.run())
        prompt = layout.item_prompt
        if ready.reads.everywhere:  # positions before an item's start are the base run's
            whole = ready.base_logits[prompt].clone()
            whole[layout.final_item, layout.final_pos] = logits
            logits = whole
        return ready.readout.score(logits, ready.clean_logits[prompt], prompt).cpu().numpy()

    def _add_changes(self, rows: Tensor, item: Tensor, prompt: Tensor, pos: Tensor) -> None:
        rows += self.changes[item, pos - int(self.batch.rows[0])]

    def _put_in(self, site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        serial = self.batch.facts.parallel is False
        if site == "resid_pre":
            self.seen[2 * layer] = tensor
        elif site == "mlp_in" and serial:
            self.seen[2 * layer + 1] = tensor
        elif site in ("q", "k", "v"):
            return self._at_heads(site, layer, tensor)
        elif site == "post":
            return self._at_mlp(layer, tensor)
        return tensor

    def _at_heads(self, part: str, layer: int, tensor: Tensor) -> Tensor:
        block = self.weights.blocks[layer]
        last = layer == len(self.weights.blocks) - 1
        final = last and part == "q"
        for stage, mine in self.later.get(2 * layer, ()):
            for place in stage.of(part):
                rows, inputs = self._inputs(block.attn_norm, stage.time, place, mine, len(tensor), final)
                W, b = (getattr(block.attn, f"{kind}_{part.upper()}") for kind in "Wb")
                new = inputs @ W[place.head] + (0.0 if b is None else b[place.head])
                tensor = tensor.clone()
                tensor[rows, place.head] = new
        return tensor

    def _at_mlp(self, layer: int, hidden: Tensor) -> Tensor:
        mlp, parallel = self.weights.blocks[layer].mlp, self.batch.facts.parallel
        last = layer == len(self.weights.blocks) - 1
        for stage, mine in self.later.get(2 * layer + (not parallel), ()):
            for place in stage.of("mlp_out"):
                assert mlp is not None
                rows, inputs = self._inputs(mlp.norm, stage.time, place, mine, len(hidden), last)
                hidden = hidden.clone()
                hidden[rows] = B.mlp_hidden(mlp, inputs)
        return hidden

    def _inputs(
        self, norm: Norm | None, time: int, place: Place, mine: Tensor, n_rows: int, final: bool
    ) -> tuple[Tensor, Tensor]:
        """The rows that a receiver reads, and its normed input there: [row], [row, d_model]."""
        layout, batch = self.layout, self.batch
        item, pos = (layout.final_item, layout.final_pos) if final else (layout.row_item, layout.row_pos)
        item, pos = item[:n_rows], pos[:n_rows]
        marks = batch.ends.marks(place, batch.numbers, sending=False)
        row_of = self.row_of[pos]
        chosen = mine[item] & marks[self.prompt[item], pos]
        if batch.ends.combine == "add":
            chosen &= row_of >= 0
        rows = chosen.nonzero()[:, 0]
        item, pos, row_of = item[rows], pos[rows], row_of[rows]
        delta = self.deltas[time][self.sender[item], self.prompt[item], row_of.clamp(min=0)]
        delta = delta.masked_fill((row_of < 0)[:, None], 0.0)
        own = batch.whole_stream(time)[layout.item_prompt[item], pos]
        x = own
        if batch.ends.combine == "add":
            seen = self.seen[time]
            at = rows if len(seen) == n_rows or not final else layout.final_source[:n_rows][rows]
            x = seen[at]
        return rows, received(norm, x, delta, batch.ends.norm, own)

    def _logits(self, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, "row column"]:
        """Of the rows that are read; where the logits are received, of what C gave."""
        ready, time = self.batch.ready, 2 * len(self.weights.blocks)
        self.seen[time] = stream
        normed = None
        for stage, mine in self.later.get(time, ()):
            place = stage.places[0]
            norm = self.weights.final_norm
            rows, inputs = self._inputs(norm, time, place, mine, len(stream), True)
            normed = B.normed(norm, stream) if normed is None else normed
            normed[rows] = inputs
        if normed is None:
            return ready.readout.logits(stream)
        return Readout(replace(self.weights, final_norm=None), ready.reads).logits(normed)
