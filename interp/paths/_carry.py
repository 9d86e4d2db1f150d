"""Run C: what senders change in the stream by the time a receiver reads it.

C is the own run with the senders' outputs from the other run and the frozen components' from the own run.
Only its difference from the own run, Δ, is kept, for many senders at once (they are rows of one batch).

1. All heads frozen: attention carries nothing, so Δ stays at its position and goes through MLPs alone,
   Δ ← Δ + MLP(x + Δ) − MLP(x), layer by layer; with the MLPs frozen too it is a sum. No attention is run.
2. Otherwise C is an ordinary run from the first sender's layer on, with frozen outputs put back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.wavefront import Prepared
from interp.models import Anatomy
from interp.models.parts import MLP, Block
from interp.paths._ends import Cell, Ends, read_at
from interp.places import Place

Deltas = dict[int, Tensor]  # by the time of reading: [sender, prompt, row, d_model]


@dataclass(eq=False)
class Batch:
    """Prompts whose changes stand at the same positions, with the own and the other run of each."""

    ready: Prepared
    ends: Ends
    prompts: Int[Tensor, "prompt"]  # in the captured block
    numbers: Int[Tensor, "prompt"]  # in the whole task: rows of the marks
    rows: Int[Tensor, "row"]  # positions at which C may differ from the own run
    stop: int  # one past the last position that is read

    @property
    def facts(self) -> Anatomy:
        return self.ready.budget.facts

    @cached_property
    def at(self) -> tuple[Tensor, Tensor]:
        """Index of the rows in [prompt, pos, ...]."""
        return self.prompts[:, None], self.rows

    def stream(self, time: int) -> Float[Tensor, "prompt row d_model"]:
        """The own run's stream as it is read at a time."""
        return self.whole_stream(time)[self.at]

    def whole_stream(self, time: int) -> Float[Tensor, "block pos d_model"]:
        saved = self.ready.saved
        return (saved.mid if time % 2 else saved.pre)[time // 2]

    def own(self, site: str, layer: int) -> Float[Tensor, "prompt row *unit"]:
        return self.ready.saved.base[site, layer][self.at]

    def other(self, site: str, layer: int) -> Float[Tensor, "prompt row *unit"]:
        return self.ready.saved.source[site, layer][self.at]

    def marks(self, place: Place, *, sending: bool) -> Bool[Tensor, "prompt row"]:
        return self.ends.marks(place, self.numbers, sending=sending)[:, self.rows]

    def head_changes(self, layer: int) -> Float[Tensor, "head prompt row d_model"]:
        """What each head would write beyond the own run, before any norm of the write."""
        own, other = self.own("z", layer), self.other("z", layer)
        blocks, theirs = self.ready.weights.blocks, self.ready.source_weights.blocks
        W_O, their_W_O = blocks[layer].attn.W_O, theirs[layer].attn.W_O
        if W_O is their_W_O:
            return B.head_writes(W_O, other - own)
        return B.head_writes(their_W_O, other) - B.head_writes(W_O, own)

    def attn_own(self, layer: int) -> Float[Tensor, "prompt row d_model"]:
        """The own run's attention write before its norm."""
        attn, z = self.ready.weights.blocks[layer].attn, self.own("z", layer)
        write = z.flatten(-2) @ attn.W_O.flatten(0, 1)
        return write if attn.b_O is None else write + attn.b_O


def carry(batch: Batch, senders: Sequence[Cell], times: Sequence[int]) -> Deltas:
    """Δ of every sender at the times of reading. Exactly 0 where nothing of a sender comes."""
    if not senders:
        return {}
    return (Pointwise if pointwise(batch.ends, batch.facts) else Whole)(batch, senders, times).run()


def pointwise(ends: Ends, facts: Anatomy) -> bool:
    """Whether every head between the first sender and the last receiver is frozen."""
    first, last = layers_between(ends, facts)
    return bool(ends.frozen.heads[first:last].all())


def layers_between(ends: Ends, facts: Anatomy) -> tuple[int, int]:
    """The first layer that a sender writes in, and one past the last that is read from."""
    first = min(place.layer or 0 for cell in ends.senders for place in cell.places)
    times = [read_at(facts, place) for cell in ends.receivers for place in cell.places]
    return first, (max(times) + 1) // 2


class _Carry:
    """The senders of a batch by the places at which they act."""

    def __init__(self, batch: Batch, senders: Sequence[Cell], times: Sequence[int]) -> None:
        self.batch, self.senders, self.times = batch, senders, set(times)
        self.blocks = batch.ready.weights.blocks
        self.by_place: dict[tuple[str, int], list[tuple[int, Place]]] = {}
        for number, cell in enumerate(senders):
            for place in cell.places:
                self.by_place.setdefault((place.site, place.layer or 0), []).append((number, place))
        self.first = min(layer for _, layer in self.by_place)
        self.last = (max(self.times) + 1) // 2  # one past the last layer that is run, MLP perhaps not
        self.out: Deltas = {}

    def patches(self, site: str, layer: int) -> Iterator[tuple[int, Place, Tensor]]:
        """Senders that act at a site, where in it, and at which rows: [prompt, row]."""
        for number, place in self.by_place.get((site, layer), ()):
            yield number, place, self.batch.marks(place, sending=True)

    def head_change(self, layer: int) -> dict[int, Float[Tensor, "prompt row d_model"]]:
        """What the senders' heads of a layer add to the stream, by sender."""
        sums: dict[int, Tensor] = {}
        writes = self.batch.head_changes(layer) if ("z", layer) in self.by_place else None
        for number, place, marks in self.patches("z", layer):
            assert writes is not None
            write = writes.sum(0) if place.head is None else writes[place.head]
            sums[number] = sums.get(number, 0.0) + write * marks[..., None]
        norm = self.blocks[layer].attn_out_norm
        if norm is None or not sums:
            return sums
        own = self.batch.attn_own(layer)
        return {number: norm(own + change) - norm(own) for number, change in sums.items()}


class Pointwise(_Carry):
    """Every head frozen: Δ [sender, prompt, row, d_model] through MLPs."""

    def run(self) -> Deltas:
        batch, last_time = self.batch, max(self.times)
        x = batch.stream(0)
        self.delta = x.new_zeros(len(self.senders), *x.shape)
        for time in sorted(self.times):
            if time < 2 * self.first:
                self.out[time] = self.delta.clone()
        for layer in range(self.first, self.last):
            self._layer(layer, self.blocks[layer], last_time)
        self._set("resid_pre", self.last)
        self._read(2 * self.last)
        return self.out

    def _layer(self, layer: int, block: Block, last_time: int) -> None:
        self._set("resid_pre", layer)
        self._read(2 * layer)
        before = self.delta.clone() if block.parallel else self.delta
        self._attention(layer)
        if block.mlp is None:
            return self._set("resid_post", layer)
        if not block.parallel:
            self._set("resid_mid", layer)
            self._read(2 * layer + 1)
        if last_time > 2 * layer + 1:
            self.delta += self._mlp(layer, block.mlp, before if block.parallel else self.delta)
            self._set("resid_post", layer)
        return None

    def _read(self, time: int) -> None:
        if time in self.times and time not in self.out:
            self.out[time] = self.delta.clone()

    def _set(self, site: str, layer: int) -> None:
        """Senders that are the stream itself: Δ is all that is upstream."""
        for number, _, marks in self.patches(site, layer):
            change = self.batch.other(site, layer) - self.batch.own(site, layer)
            self.delta[number] = torch.where(marks[..., None], change, self.delta[number])

    def _attention(self, layer: int) -> None:
        changes = self.head_change(layer)
        for number, _, marks in self.patches("attn_out", layer):
            change = self.batch.other("attn_out", layer) - self.batch.own("attn_out", layer)
            changes[number] = torch.where(marks[..., None], change, changes.get(number, change * 0))
        for number, change in changes.items():
            self.delta[number] += change

    def _mlp(self, layer: int, mlp: MLP, delta: Tensor) -> Float[Tensor, "sender prompt row d_model"]:
        """What the MLP adds beyond the own run."""
        batch, change = self.batch, torch.zeros_like(delta)
        x = batch.stream(2 * layer + (not self.blocks[layer].parallel))
        alive = delta.any(-1)
        if not batch.ends.frozen.mlps[layer] and bool(alive.any()):
            number, prompt, row = alive.nonzero(as_tuple=True)
            new = B.mlp(mlp, layer, x[prompt, row] + delta[number, prompt, row], _pass_on)
            change[number, prompt, row] = new - batch.own("mlp_out", layer)[prompt, row]
        else:
            alive = torch.zeros_like(alive)
        for number, places in self._neurons(layer).items():
            hidden = batch.own("post", layer)
            if bool(alive[number].any()):
                again = B.mlp_hidden(mlp, B.normed(mlp.norm, (x + delta[number]).flatten(0, 1)))
                hidden = torch.where(alive[number][..., None], again.view(hidden.shape), hidden)
            change[number] = neuron_change(batch, layer, hidden, places, change[number])
        for number, _, marks in self.patches("mlp_out", layer):
            other = batch.other("mlp_out", layer) - batch.own("mlp_out", layer)
            change[number] = torch.where(marks[..., None], other, change[number])
        return change

    def _neurons(self, layer: int) -> dict[int, list[tuple[Place, Tensor]]]:
        found: dict[int, list[tuple[Place, Tensor]]] = {}
        for number, place, marks in self.patches("post", layer):
            found.setdefault(number, []).append((place, marks))
        return found


def neuron_change(
    batch: Batch,
    layer: int,
    hidden: Float[Tensor, "prompt row neuron"],
    places: list[tuple[Place, Tensor]],
    change: Float[Tensor, "prompt row d_model"],
) -> Float[Tensor, "prompt row d_model"]:
    """The MLP's change with some neurons from the other run; hidden and change: what it is without them."""
    mlp, theirs = batch.ready.weights.blocks[layer].mlp, batch.ready.source_weights.blocks[layer].mlp
    assert mlp is not None
    assert theirs is not None
    other = batch.other("post", layer)
    added = torch.zeros_like(change)
    for place, marks in places:
        unit = slice(None) if place.neuron is None else slice(place.neuron, place.neuron + 1)
        if theirs is mlp:
            write = (other - hidden)[..., unit] @ mlp.W_out[unit]
        else:
            write = other[..., unit] @ theirs.W_out[unit] - hidden[..., unit] @ mlp.W_out[unit]
        added += write * marks[..., None]
    if mlp.out_norm is None:
        return change + added
    before = hidden @ mlp.W_out
    before = before if mlp.b_out is None else before + mlp.b_out
    new = mlp.out_norm(before + added) - batch.own("mlp_out", layer)
    return torch.where(added.any(-1, keepdim=True), new, change)


class Whole(_Carry):
    """Some heads not frozen: C is run whole, from each sender's layer on; x [sender prompt row, d_model]."""

    def __init__(self, batch: Batch, senders: Sequence[Cell], times: Sequence[int]) -> None:
        firsts = [min(place.layer or 0 for place in cell.places) for cell in senders]
        self.order = np.argsort(firsts, kind="stable")
        super().__init__(batch, [senders[number] for number in self.order], times)
        self.entry = np.sort(firsts)

    def run(self) -> Deltas:
        batch = self.batch
        x = batch.stream(0)
        self.zero = x.new_zeros(len(self.senders), *x.shape)
        self.first = min(self.first, int(self.entry[0]))
        flat = x.new_empty(0, x.shape[-1])
        for time in self.times:
            self.out[time] = self.zero.clone()
        for layer in range(self.first, self.last):
            flat = self._joined(flat, layer)
            flat = B.through_attention(self.blocks[layer], layer, flat, self._attend, self.tap)
            if max(self.times) > 2 * layer + 1:
                flat = B.through_mlp(self.blocks[layer], layer, flat, self.tap)
            else:
                self.tap("mlp_in", layer, flat)
        self.tap("resid_pre", self.last, self._joined(flat, self.last))
        back = np.argsort(self.order)
        return {time: delta[torch.as_tensor(back, device=delta.device)] for time, delta in self.out.items()}

    def _joined(self, flat: Tensor, layer: int) -> Tensor:
        """The rows, and those of the senders whose first layer this is."""
        new = int((self.entry == layer).sum())
        x = self.batch.stream(2 * layer)
        joined = torch.cat((flat, x.expand(new, *x.shape).flatten(0, 2)))
        self.n = len(joined) // max(1, x.shape[0] * x.shape[1])
        return joined

    def _attend(self, block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
        batch, rows = self.batch, self.batch.rows
        h = B.normed(block.attn_norm, x)
        runs = torch.arange(self.n * len(batch.prompts), device=x.device)
        where = torch.arange(len(x), device=x.device).view(len(runs), len(rows))
        prompts = batch.prompts.repeat(self.n)
        group = B.Group(int(rows[0]), batch.stop, prompts, where, where, rows, runs)
        pos = rows.repeat(len(runs))
        past = batch.ready.saved.past[layer]
        return B.attention(block.attn, layer, (h, pos), (h, pos), [group], past, tap)[0]

    def tap(self, site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        """Frozen outputs put back, then the senders' put in; what receivers read is kept."""
        if group is not None:
            return tensor
        shape = (self.n, len(self.batch.prompts), len(self.batch.rows))
        x = tensor.unflatten(0, shape)  # [sender, prompt, row, ...]
        x = self._frozen(site, layer, x)
        x = self._sent(site, layer, x)
        if site == "resid_pre":
            self._keep(2 * layer, x.flatten(0, 2))
        if site == "mlp_in" and not self.blocks[layer].parallel:
            self._keep(2 * layer + 1, x.flatten(0, 2))
        return x.flatten(0, 2)

    def _frozen(self, site: str, layer: int, x: Tensor) -> Tensor:
        frozen = self.batch.ends.frozen
        if site == "z" and frozen.heads[layer].any():
            heads = torch.as_tensor(frozen.heads[layer], device=x.device)
            return torch.where(heads[:, None], self.batch.own("z", layer), x)
        if site in ("mlp_out", "post") and frozen.mlps[layer]:
            by_neurons = torch.zeros(len(x), dtype=torch.bool, device=x.device)
            for number, _, _ in self.patches("post", layer):
                by_neurons[number : number + 1] = True  # their MLP is frozen within, at its neurons
            kept = by_neurons if site == "post" else ~by_neurons
            if bool(kept.any()):
                return torch.where(kept[:, None, None, None], self.batch.own(site, layer), x)
        return x

    def _sent(self, site: str, layer: int, x: Tensor) -> Tensor:
        two_models = self.batch.ready.source_weights is not self.batch.ready.weights
        if two_models and site == "z":  # another W_O: what the heads write is put in, at attn_out
            return self._own_heads(layer, x)
        patches = [patch for patch in self.patches(site, layer) if patch[0] < self.n]
        if two_models and site == "attn_out":
            x = x.clone()
            for number, change in self.head_change(layer).items():
                if number < self.n:
                    x[number] += change
        if not patches:
            return x
        x, other = x.clone(), self.batch.other(site, layer)
        for number, place, marks in patches:
            unit = place.head if place.head is not None else place.neuron
            if unit is None:
                marks = marks.reshape(*marks.shape, *(1 for _ in other.shape[2:]))
                x[number] = torch.where(marks, other, x[number])
            else:
                marks = marks.reshape(*marks.shape, *(1 for _ in other.shape[3:]))
                x[number, :, :, unit] = torch.where(marks, other[:, :, unit], x[number, :, :, unit])
        return x

    def _own_heads(self, layer: int, z: Tensor) -> Tensor:
        """z with the senders' heads as in the own run, where another model's writes come on top."""
        z, own = z.clone(), self.batch.own("z", layer)
        for number, place, marks in self.patches("z", layer):
            if number < self.n:
                heads = slice(None) if place.head is None else slice(place.head, place.head + 1)
                kept = torch.where(marks[..., None, None], own[:, :, heads], z[number, :, :, heads])
                z[number, :, :, heads] = kept
        return z

    def _keep(self, time: int, flat: Tensor) -> None:
        if time in self.times and len(flat):
            own = self.batch.stream(time)
            self.out[time][: self.n] = flat.unflatten(0, (self.n, *own.shape[:2])) - own


def _pass_on(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
    return tensor
