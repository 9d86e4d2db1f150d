"""A batch of circuits in one pass over the layers, as changes to the run of another circuit.

For circuit k, with the state S (the run that it starts from) and base run as in `state.py`:

1. A reader v sees  x_v = x_v(S) + Σ_u m_uv (a_u − a_u(S)) + Σ_u (m_uv(S) − m_uv) (a_u(alt) − a_u(S)),
   which is the stream with every cut edge replaced. The first sum is over the writers that change, the second
   over the edges that differ: both are matrix products over writers, for all readers of a layer together.
2. Readers with the same edges have the same input, and share its norm.
3. Heads go through z: only the change of z is multiplied by W_O, once.
4. Only what `Reach` names is computed: in a layer only the circuits ("rows") that change there; queries, MLPs
   and logits that matter at the answer's position alone, there alone.

The circuits of a batch keep no edge that the state has cut.

Attention runs over the keys and values of the state, of which a few positions change. The unchanged ones
are never copied: circuits are folded into the queries (q · k and pattern · v
are then products with shared matrices), and the positions that change are put in afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.circuits._run.changes import Changes, Rows
from interp.circuits._run.reach import FINAL, WHOLE, Reach
from interp.circuits._run.state import Base, State
from interp.engine import block as B
from interp.models.parts import Attention, Block, Norm


class Forward:
    """One batch; `record` is a copy of the state of the batch's only circuit, to be filled."""

    def __init__(
        self,
        base: Base,
        state: State,
        masks: Bool[Tensor, "circuit *pos writer reader"],
        reach: Reach,
        record: State | None = None,
    ) -> None:
        self.base, self.state, self.reach, self.record = base, state, reach, record
        self.size = len(masks)
        self.changes = Changes(base, state, masks, reach, recorded=record is not None)

    def logits(self) -> Tensor:
        """Of every circuit at the positions read: [circuit, prompt, (pos,) column]."""
        for layer, block in enumerate(self.base.weights.blocks):
            self._attention(layer, block)
            self._mlp(layer, block)
        return self._read()

    def _read(self) -> Tensor:
        base, reader = self.base, self.base.spans.logits
        level = int(self.reach.readers[reader])
        out = self.state.logits.expand(self.size, *self.state.logits.shape)
        if level:
            rows = self.changes.rows(slice(reader, reader + 1))
            x = self._inputs(rows, np.array([reader]), level, base.pre[-1])[0][
                0
            ]  # [row, prompt, pos, d_model]
            if base.reads.everywhere:
                found = base.readout.logits(x.flatten(0, 2)).unflatten(0, x.shape[:3])
                out = out.clone()
                out[(rows.column, *(part[None] for part in base.window))] = found
            else:
                x = x[:, :, 0] if level == FINAL else base.final(x)[:, :, 0]
                found = base.readout.logits(x.flatten(0, 1)).unflatten(0, x.shape[:2])
                if rows.n < self.size:
                    out = out.clone()
                    out[rows.index] = found
                else:
                    out = found
        if self.record is not None:
            self.record.logits = out[0]
        return out

    def _mlp(self, layer: int, block: Block) -> None:
        base, spans = self.base, self.base.spans
        if block.mlp is None or not (level := int(self.reach.writers[spans.mlp(layer)])):
            return
        reader, old = spans.mlp_reader(layer), self._at(self.state.mlp[layer], level)
        rows = self.changes.rows(slice(reader, reader + 1))
        x = self._inputs(rows, np.array([reader]), level, base.stream(layer, True))[0][0]
        hidden = B.mlp_hidden(block.mlp, B.normed(block.mlp.norm, x.flatten(0, 2)))
        out = B.mlp_write(block.mlp, hidden).view(x.shape)  # [row, prompt, pos, d_model]
        if self.record is not None:
            self.record.mlp[layer] = base.put(self.state.mlp[layer], level, out[0])
        self._push(rows, np.array([spans.mlp(layer)]), level, (out - old)[None])

    def _attention(self, layer: int, block: Block) -> None:
        spans = self.base.spans
        levels = self.reach.writers[spans.heads(layer)]  # [head]
        if not levels.any():
            return
        rows = self.changes.rows(spans.attention(layer))
        keys = self._new_keys(rows, layer, block, "k")
        values = self._new_keys(rows, layer, block, "v")
        for level in (FINAL, WHOLE):
            heads = np.flatnonzero(levels == level)
            if len(heads):
                self._heads(rows, layer, block, level, heads, keys, values)

    def _heads(
        self, rows: Rows, layer: int, block: Block, level: int, heads: np.ndarray, keys: New, values: New
    ) -> None:
        """What some heads write, when some keys and values change."""
        base, state = self.base, self.state
        q = self._at(state.q[layer][:, :, heads], level)[None]
        new = self._new_queries(rows, layer, block, level)
        if new is not None:
            q = q.repeat(rows.n, 1, 1, 1, 1)
            q[..., np.searchsorted(heads, new[0]), :] = new[1]
        which = heads // base.spans.graph.group
        k = state.k[layer][:, :, which], _of_heads(keys, which)
        v = state.v[layer][:, :, which], _of_heads(values, which)
        z = new_z(only_heads(block.attn, heads), q, k, v, self._positions(level), base.pos)
        change = z - self._at(state.z[layer][:, :, heads], level)
        if self.record is not None:
            self._keep("z", layer, level, heads, z[0])
        writes = B.head_writes(block.attn.W_O[heads], change)  # [head, row, prompt, pos, d_model]
        self._push(rows, base.spans.heads(layer).start + heads, level, writes)

    def _new_queries(self, rows: Rows, layer: int, block: Block, level: int) -> New:
        """The queries that change and are needed at a level: [row, prompt, pos, head, d_head]."""
        part, attn = self.base.spans.part(layer, "q"), block.attn
        heads = np.flatnonzero(self.reach.readers[part] == level)
        if not len(heads):
            return None
        W, b = attn.W_Q[heads], None if attn.b_Q is None else attn.b_Q[heads]
        q = self._projected(rows, layer, block, part.start + heads, level, W, b)
        q = self._finished(attn, q, level, attn.q_norm)
        if self.record is not None:
            self._keep("q", layer, level, heads, q[0])
        return heads, q

    def _new_keys(self, rows: Rows, layer: int, block: Block, part: str) -> New:
        """The keys or values that change: [row, prompt, pos, kv head, d_head]."""
        span, attn = self.base.spans.part(layer, part), block.attn
        which = np.flatnonzero(self.reach.readers[span])
        if not len(which):
            return None
        W, b = (attn.W_K, attn.b_K) if part == "k" else (attn.W_V, attn.b_V)
        b = None if b is None else b[which]
        x = self._projected(rows, layer, block, span.start + which, WHOLE, W[which], b)
        x = self._finished(attn, x, WHOLE, attn.k_norm) if part == "k" else B.value(attn, x)
        if self.record is not None:
            kept = getattr(self.record, part)
            kept[layer] = kept[layer].clone()
            part_of = kept[layer][:, :, which]
            part_of[self.base.window] = x[0]
            kept[layer][:, :, which] = part_of
        return which, x

    def _projected(
        self,
        rows: Rows,
        layer: int,
        block: Block,
        readers: np.ndarray,
        level: int,
        W: Tensor,
        b: Tensor | None,
    ) -> Float[Tensor, "row prompt pos reader d_head"]:
        """Inputs of some readers, normed, each through its own weights [reader, d_model, d_head]."""
        x, which = self._inputs(rows, readers, level, self.base.stream(layer, False))
        shape = x.shape[1:4]
        x = B.normed(block.attn_norm, x).flatten(1, 3)  # [input, row prompt pos, d_model]
        wide = x.expand(len(W), *x.shape[1:]) if len(x) == 1 else x[which] if len(x) < len(W) else x
        out = torch.bmm(wide, W) if b is None else torch.baddbmm(b[:, None], wide, W)
        return out.transpose(0, 1).unflatten(0, shape)

    def _finished(self, attn: Attention, x: Tensor, level: int, norm: Norm | None) -> Tensor:
        """`B.finish` of x [row, prompt, pos, head, d_head]."""
        pos = self._positions(level).expand(x.shape[:3]).flatten()
        return B.finish(attn, x.flatten(0, 2), pos, norm).view(x.shape)

    def _inputs(
        self, rows: Rows, readers: np.ndarray, level: int, stream: Tensor
    ) -> tuple[Float[Tensor, "input row prompt at d_model"], np.ndarray]:
        """The different inputs of some readers, and which of them each reader has."""
        x, which = self.changes.inputs(rows, readers, level, stream)
        if self.record is not None:
            for reader, one in zip(readers.tolist(), which.tolist()):
                old = self.state.inputs.get(reader, stream)
                self.record.inputs[reader] = self.base.put(old, level, x[one, 0])
        return x, which

    def _push(self, rows: Rows, writers: np.ndarray, level: int, change: Tensor) -> None:
        """Tell what some writers write beyond the state: [writer, row, prompt, pos, d_model]."""
        self.changes.push(rows, writers, level, change)
        if self.record is not None:
            for writer, one in zip(writers.tolist(), change[:, 0]):
                none = torch.zeros_like(self.base.pre[0])
                self.record.moved[writer] = self.base.put(none, level, one)

    def _positions(self, level: int) -> Tensor:
        """[prompt, pos]."""
        return self.base.pos if level == WHOLE else self.base.runs.positions[:, None]

    def _at(self, x: Tensor, level: int) -> Tensor:
        """x [prompt, pos, ...] at a level."""
        return x if level == WHOLE else x[self.base.prompts, self.base.at].unsqueeze(1)

    def _keep(self, name: str, layer: int, level: int, heads: np.ndarray, value: Tensor) -> None:
        kept = getattr(self.record, name)
        kept[layer] = kept[layer].clone()
        kept[layer][:, :, heads] = self.base.put(kept[layer][:, :, heads], level, value)


def _of_heads(new: New, which: np.ndarray) -> New:
    """The new keys or values that some heads use, `which` by head."""
    if new is None:
        return None
    mine = np.flatnonzero(np.isin(which, new[0]))
    if not len(mine):
        return None
    return mine, new[1][..., np.searchsorted(new[0], which[mine]), :]


New = (
    tuple[np.ndarray, Tensor] | None
)  # which heads change, and their vectors [row, prompt, pos, head, d_head]


def new_z(
    attn: Attention,
    q: Float[Tensor, "row prompt query head d_head"],
    keys: tuple[Float[Tensor, "prompt key head d_head"], New],
    values: tuple[Float[Tensor, "prompt key head d_head"], New],
    query_pos: Int[Tensor, "prompt query"],
    window: Int[Tensor, "prompt pos"],
) -> Float[Tensor, "new_row prompt query head d_head"]:
    """z of some heads; `window` are the positions at which keys and values change.

    q may have one row for all circuits.
    """
    n = len(q)
    raw = B.products(attn, rearrange(q, "row prompt query head d -> prompt (row query) head d"), keys[0])
    raw = rearrange(raw, "prompt head (row query) key -> row prompt head query key", row=n)
    if keys[1] is not None:
        raw = _with_new_keys(attn, raw, q, keys[1], window)
    pos = query_pos.expand(len(raw), -1, -1)  # [row, prompt, query]
    pattern = B.masked(attn, raw.flatten(0, 1), pos.flatten(0, 1)[:, None]).softmax(-1)
    pattern = pattern.view(raw.shape)
    folded = rearrange(pattern, "row prompt head query key -> prompt head (row query) key")
    z = rearrange(
        B.mix(folded, values[0]), "prompt (row query) head d -> row prompt query head d", row=len(raw)
    )
    return z if values[1] is None else _with_new_values(z, pattern, values[0], values[1], window)


def _with_new_keys(
    attn: Attention, raw: Tensor, q: Tensor, new: tuple[np.ndarray, Tensor], window: Tensor
) -> Tensor:
    """raw [row, prompt, head, query, key] with the products of the keys that change."""
    heads, k = new
    raw = raw.expand(len(k), *raw.shape[1:]).clone()
    own = torch.einsum("rpqhd,rpwhd->rphqw", q[..., heads, :].expand(len(k), -1, -1, -1, -1), k) / attn.scale
    part = raw[:, :, heads]
    raw[:, :, heads] = part.scatter(-1, window[None, :, None, None].expand(own.shape), own)
    return raw


def _with_new_values(
    z: Tensor, pattern: Tensor, old: Tensor, new: tuple[np.ndarray, Tensor], window: Tensor
) -> Tensor:
    """z with what the pattern takes from the change of the values."""
    heads, v = new
    prompts = torch.arange(len(old), device=old.device)[:, None]
    change = v - old[prompts, window][:, :, heads]  # [row, prompt, pos, head, d_head]
    part = pattern[:, :, heads]
    seen = part.gather(-1, window[None, :, None, None].expand(*part.shape[:-1], window.shape[1]))
    seen = seen.expand(len(v), *seen.shape[1:])
    z = z.expand(len(v), *z.shape[1:]).clone()
    z[..., heads, :] += torch.einsum("rphqw,rpwhd->rpqhd", seen, change)
    return z


def only_heads(attn: Attention, heads: np.ndarray) -> Attention:
    """What scores need to know, for some heads."""
    return attn if attn.alibi is None else replace(attn, alibi=attn.alibi[heads])
