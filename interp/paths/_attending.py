"""The heads of a receiving layer in run D: what comes of the queries, keys and values that run C changed.

Only the receivers' heads are computed. Keys and values that no receiver changed are those of the own run, and
are shared by all senders.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.models.parts import Attention, Norm

if TYPE_CHECKING:
    from interp.paths._receive import Change


def alone(attn: Attention, heads: Int[Tensor, "head"], share: int) -> Attention:
    """The attention of some query heads, each with a key-value head of its own."""
    own = heads // share

    def part(x: Tensor | None, index: Tensor) -> Tensor | None:
        return None if x is None else x[index]

    def norm(of: Norm | None, index: Tensor) -> Norm | None:
        by_head = of is not None and of.gain is not None and of.gain.ndim > 1
        return replace(of, gain=of.gain[index]) if by_head else of  # type: ignore[index, union-attr]

    return replace(
        attn,
        W_Q=attn.W_Q[heads], W_K=attn.W_K[own], W_V=attn.W_V[own], W_O=attn.W_O[heads],
        b_Q=part(attn.b_Q, heads), b_K=part(attn.b_K, own), b_V=part(attn.b_V, own),
        q_norm=norm(attn.q_norm, heads), k_norm=norm(attn.k_norm, own), alibi=part(attn.alibi, heads),
    )  # fmt: skip


class Attending:
    """The heads of a stage, with the queries, keys and values that changed."""

    def __init__(self, change: Change, attn: Attention, heads: Int[Tensor, "head"], share: int) -> None:
        self.change, self.attn, self.heads, self.share = change, attn, heads, share
        batch, layer = change.batch, change.stage.layer
        self.norm = batch.ready.weights.blocks[layer].attn_norm
        x, past = batch.whole_stream(2 * layer), batch.ready.saved.past[layer]
        at, own = batch.prompts[:, None], heads // share
        rows = B.normed(self.norm, x[at, change.pos].flatten(0, 1))
        every = attn.whole_norm  # of all heads' queries together
        own_attn = batch.ready.weights.blocks[layer].attn if every else attn
        q = B.project(own_attn.W_Q, own_attn.b_Q, rows)
        q = B.finish(own_attn, q, change.pos.repeat(len(batch.prompts)), own_attn.q_norm)
        q = q[:, heads] if every else q
        self.q = q.unflatten(0, (len(batch.prompts), -1))  # [prompt, query, head, d_head]
        self.k = past.k[batch.prompts, : batch.stop][:, :, own]  # [prompt, key, head, d_head]
        self.v = past.v[batch.prompts, : batch.stop][:, :, own]

    def z(self) -> Float[Tensor, "sender prompt query head d_head"]:
        change, n = self.change, len(self.change.delta)
        q, pos = self._queries(), self.change.pos
        if not (change.stage.of("k") or change.stage.of("v")):
            folded = q.movedim(0, 1).flatten(1, 2)  # [prompt, sender query, head, d_head]: keys are shared
            z = B.attend(self.attn, folded, self.k, self.v, pos.repeat(n))[1]
            return z.unflatten(1, (n, -1)).movedim(1, 0)
        k, v = self._keys("k", self.k), self._keys("v", self.v)
        return B.attend(self.attn, q.flatten(0, 1), k, v, pos)[1].unflatten(0, q.shape[:2])

    def _queries(self) -> Float[Tensor, "sender prompt query head d_head"]:
        change = self.change
        q = self.q.expand(len(change.delta), *self.q.shape)
        if not change.stage.of("q"):
            return q
        rows, queries = self._shared()
        new = self._new("q")[:, :, rows]
        marks = self._marks("q")[:, rows]  # [prompt, row, head]
        q = q.clone()
        q[:, :, queries] = torch.where(marks[..., None], new, q[:, :, queries])
        return q

    def _shared(self) -> tuple[Tensor, Tensor]:
        """The rows that are queries, and which queries they are."""
        same = self.change.batch.rows[:, None] == self.change.pos
        row, query = same.nonzero(as_tuple=True)
        return row, query

    def _keys(self, part: str, own: Tensor) -> Float[Tensor, "run key head d_head"]:
        change = self.change
        out = own.expand(len(change.delta), *own.shape)
        if change.stage.of(part):
            rows = change.batch.rows
            out = out.clone()
            marks = self._marks(part)[..., None]
            out[:, :, rows] = torch.where(marks, self._new(part), out[:, :, rows])
        return out.flatten(0, 1)

    def _new(self, part: str) -> Float[Tensor, "sender prompt row head d_head"]:
        """The queries, keys or values of the rows, from what C gave."""
        change, attn = self.change, self.attn
        x = change.batch.stream(change.stage.time).expand_as(change.delta)
        h = received(self.norm, x.flatten(0, 2), change.delta.flatten(0, 2), change.batch.ends.norm)
        pos = change.batch.rows.repeat(len(h) // len(change.batch.rows))
        return projected(attn, part, h, pos).unflatten(0, change.delta.shape[:3])

    def _marks(self, part: str) -> Tensor:
        """Which rows of which of the heads are received: [prompt, row, head]."""
        out = torch.zeros(
            len(self.change.batch.prompts), len(self.change.batch.rows), len(self.heads),
            dtype=torch.bool, device=self.heads.device,
        )  # fmt: skip
        heads = self.heads if part == "q" else self.heads // self.share
        for place in self.change.stage.of(part):
            marks = self.change.batch.marks(place, sending=False)
            out |= marks[..., None] & (heads == place.head)
        return out


def projected(attn: Attention, part: str, h: Tensor, pos: Tensor) -> Float[Tensor, "row head d_head"]:
    """Finished queries or keys, or values, of normed rows."""
    if part == "v":
        return B.value(attn, B.project(attn.W_V, attn.b_V, h))
    W, b, norm = (attn.W_Q, attn.b_Q, attn.q_norm) if part == "q" else (attn.W_K, attn.b_K, attn.k_norm)
    return B.finish(attn, B.project(W, b, h), pos, norm)


def received(norm: Norm | None, x: Tensor, delta: Tensor, how: str, own: Tensor | None = None) -> Tensor:
    """The normed input x + Δ; with how="frozen" norm(x) + Δ / the scale of `own` (by default of x)."""
    if how == "exact" or norm is None:
        return B.normed(norm, x + delta)
    scale = own if own is not None else x
    scale = scale - scale.mean(-1, keepdim=True) if norm.centred else scale
    scale = (scale.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    delta = (delta - delta.mean(-1, keepdim=True) if norm.centred else delta) / scale
    return norm(x) + (delta if norm.gain is None else delta * norm.gain)
