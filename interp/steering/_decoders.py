"""Logits of the next token of every row, step by step.

`FastDecoder` runs the model's weights, without hook points: keys and values of every layer stand in buffers
of the run's full length; a step writes its own column and attends to all before it. `Decoder` runs the model
itself, under hooks, with or without its own cache.

Rows are padded on the left; padding is masked, and positions, learned and rotary, count from each row's first
real token. HookedTransformer.generate does not do that without a tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp._verbs import warn
from interp.engine import block as B
from interp.engine.forward import SCORES, forward, unembed
from interp.models import Model, anatomy, cache_holds, dtypes_explained, is_bridge
from interp.models.parts import Attention, Block, Rotary, Weights
from interp.prompts import Prompts
from interp.steering._clock import Clock
from interp.steering._intervention import Intervention
from interp.steering._steer import taps


class Decoder:
    """Logits of the next token of every row, step by step."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"], use_cache: bool
    ) -> None:
        self.model, self.tokens, self.mask, self.use_cache = model, tokens, real.long(), use_cache
        self.cache: Any = None
        self._padded = not bool(real.all())

    def logits(self) -> Float[Tensor, "row vocab"]:
        """Run what has not been run, and give the logits after the last column."""
        with dtypes_explained(self.model, anatomy(self.model).name):
            whole = self._whole()
        return whole[:, -1].to(self.tokens.device)

    def append(self, new: Int[Tensor, "row"]) -> None:
        """Add a token to every row."""
        self.tokens = torch.cat((self.tokens, new[:, None]), 1)
        self.mask = torch.cat((self.mask, torch.ones_like(new[:, None])), 1)

    def _whole(self) -> Float[Tensor, "row pos vocab"]:
        if not self.use_cache:
            return self.model(self.tokens, **({"attention_mask": self.mask} if self._padded else {}))
        return self._bridge() if is_bridge(self.model) else self._hooked()

    def _hooked(self) -> Tensor:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        new, mask = (
            (self.tokens, self.mask) if self.cache is None else (self.tokens[:, -1:], self.mask[:, -1:])
        )
        if self.cache is None:
            rows, device = self.tokens.shape[0], self.tokens.device
            self.cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, device, rows)
        return self.model(new, past_kv_cache=self.cache, attention_mask=mask)

    def _bridge(self) -> Tensor:
        past = {} if self.cache is None else {"past_key_values": self.cache}
        new = self.tokens if self.cache is None else self.tokens[:, -1:]
        options = {"use_cache": True, "return_type": "logits_and_cache", **past}
        logits, self.cache = self.model(new, attention_mask=self.mask, **options)
        if not past and not cache_holds(self.cache, self.tokens.shape[1]):
            self.use_cache, self.cache = False, None
            warn(
                "decoding runs without a cache, so every token costs a pass over the whole text: after the "
                "prompt the model's key-value cache does not hold the prompt. The installed releases of "
                "transformers and transformer-lens hand it on under different names; transformers<5.24 "
                "and transformer-lens agree."
            )
        return logits


class FastDecoder:
    """Logits of the next token of every row, step by step, under interventions that have been checked."""

    def __init__(
        self,
        parts: Weights,
        tokens: Int[Tensor, "row pos"],
        real: Bool[Tensor, "row pos"],
        interventions: Sequence[Intervention] = (),
        *,
        use_cache: bool,
        prompts: Prompts | None = None,
    ) -> None:
        self.weights, self.tokens, self.mask, self.use_cache = parts, tokens, real, use_cache
        self.clock = Clock(real.sum(1) if prompts is None else prompts)
        self.taps = taps(interventions, self.clock)
        self.padded = not bool(real.all())
        self._first = None if not self.padded else real.int().argmax(1)  # [row], the first real column
        self._done = 0  # columns in the cache
        self._cache: list[tuple[Tensor, Tensor]] = []
        self._alike: tuple[int, list[int]] = (0, [])

    def logits(self) -> Float[Tensor, "row vocab"]:
        """Run what has not been run, and give the logits after the last column."""
        start = self._done if self.use_cache else 0
        new = self.tokens[:, start:]
        column = torch.arange(start, start + new.shape[1], device=new.device)
        position = column if self._first is None else (column - self._first[:, None]).clamp(min=0)
        self.clock.start(new)
        self.clock.tick(
            start, None if self._first is None else self.mask, (new.shape[0], new.shape[1]), new.device
        )
        x = self.weights.embed_at(new, position)
        attend = _Attend(self, start, column, position.expand(new.shape).flatten())
        final = forward(self.weights, x, 0, self.taps, attend)
        self._done = self.tokens.shape[1]
        return unembed(self.weights, final[:, -1]).to(new.device)

    def append(self, new: Int[Tensor, "row"]) -> None:
        """Add a token to every row."""
        self.tokens = torch.cat((self.tokens, new[:, None]), 1)
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), 1)

    def alike(self, stop: int) -> list[int]:
        """For each layer the first one whose rotary angles are the same, at least up to column `stop`."""
        if self._alike[0] < stop:
            tables = [block.attn.rotary for block in self.weights.blocks]
            shared = [
                next(first for first, old in enumerate(tables) if old is new or _same(old, new, 2 * stop))
                for new in tables
            ]
            self._alike = (2 * stop, shared)
        return self._alike[1]

    def remember(self, layer: int, start: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put away keys and values [row, kv head, pos, d_head] of the columns from `start` on; all so far."""
        stop = start + k.shape[2]
        if layer == len(self._cache) or self._cache[layer][0].shape[2] < stop:
            room = [each.new_empty(*each.shape[:2], 2 * stop, each.shape[3]) for each in (k, v)]
            if layer < len(self._cache):
                for wide, old in zip(room, self._cache[layer]):
                    wide[:, :, :start] = old[:, :, :start]
            self._cache[layer : layer + 1] = [(room[0], room[1])]
        for kept, each in zip(self._cache[layer], (k, v)):
            kept[:, :, start:stop] = each
        keys, values = self._cache[layer]
        return keys[:, :, :stop], values[:, :, :stop]

    def hidden(
        self, start: int, column: Int[Tensor, "pos"], window: int | None
    ) -> Bool[Tensor, "*row query key"] | None:
        """Which keys each query, of the columns from `start` on, does not see; None where it sees all."""
        stop = start + len(column)
        if len(column) == 1 and self._first is None and (window is None or window >= stop):
            return None
        key = torch.arange(stop, device=column.device)
        gap = column[:, None] - key
        out = gap < 0 if window is None else (gap < 0) | (gap >= window)
        if self._first is None:
            return out
        padding = (key < self._first[:, None])[:, None] & (gap != 0)  # a query in the padding sees itself
        return out | padding


class _Attend:
    """Attention of the columns of one pass to all columns so far."""

    def __init__(
        self, decoder: FastDecoder, start: int, column: Int[Tensor, "pos"], position: Int[Tensor, "rows"]
    ) -> None:
        self.decoder, self.start, self.column, self.position = decoder, start, column, position
        self._hidden: dict[tuple[int | None, torch.device], Tensor | None] = {}
        self._turns: dict[tuple[int, torch.device], Tensor] = {}
        self._places = {column.device: (position, column)}

    def __call__(self, block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
        at, column = self.on(x.device)
        n, attn, h = len(column), block.attn, B.normed(block.attn_norm, x)
        turn = self.turn(attn, layer) if n == 1 else None
        q, k, v = B.qkv(attn, layer, (h, at), (h, at), tap, turn)  # each [row · pos, head, d_head]
        rows, heads = len(q) // n, q.shape[1]
        k, v = (each.unflatten(0, (rows, n)).transpose(1, 2) for each in (k, v))
        k, v = self.decoder.remember(layer, self.start, k, v)
        kv = k.shape[1]
        hidden, scored = self.hidden(attn.window, x.device), (SCORES, layer) in self.decoder.taps
        if n == 1 and attn.fused and attn.alibi is None and not scored:
            q, seen = q.view(rows, kv, heads // kv, -1), None if hidden is None else hidden.logical_not()
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1 / attn.scale)
            return tap("z", layer, z.reshape(rows, heads, -1))
        q = q.view(rows, n, kv, heads // kv, -1).permute(0, 2, 3, 1, 4).reshape(rows, kv, -1, q.shape[-1])
        scores = ((q @ k.transpose(-1, -2)) / attn.scale).view(rows, heads, n, -1)
        scores = B.biased(attn, scores, column)
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        scores = tap(SCORES, layer, scores) if scored else scores
        z = scores.softmax(-1).view(rows, kv, -1, k.shape[2]) @ v  # [row, kv, share · pos, d_head]
        z = z.view(rows, heads, n, -1).transpose(1, 2).reshape(rows * n, heads, -1)
        return tap("z", layer, z)

    def on(self, device: torch.device) -> tuple[Int[Tensor, "rows"], Int[Tensor, "pos"]]:
        """Positions and columns on a layer's device."""
        if device not in self._places:
            self._places[device] = self.position.to(device), self.column.to(device)
        return self._places[device]

    def hidden(self, window: int | None, device: torch.device) -> Tensor | None:
        """The mask [query, key] or [row, 1, query, key], once a pass for each window."""
        key = window, device
        if key not in self._hidden:
            found = self.decoder.hidden(self.start, self.column, window)
            found = found if found is None or found.ndim == 2 else found[:, None]
            self._hidden[key] = None if found is None else found.to(device)
        return self._hidden[key]

    def turn(self, attn: Attention, layer: int) -> Tensor | None:
        """The layer's rotation of this column as a matrix, or one a row; once a pass for equal angles.

        Half precision keeps to the tables, whose rounding is the model's.
        """
        rotary, d_head = attn.rotary, attn.W_Q.shape[-1]
        if rotary is None or attn.W_Q.dtype.itemsize < 4:
            return None
        key = self.decoder.alike(self.start + 1)[layer], attn.W_Q.device
        if key not in self._turns:
            at, _ = self.on(attn.W_Q.device)
            at = at if self.decoder.padded else at[:1]
            unit = torch.eye(d_head, dtype=attn.W_Q.dtype, device=at.device).expand(len(at), -1, -1)
            turn = rotary(unit, at)
            self._turns[key] = turn if self.decoder.padded else turn[0]
        return self._turns[key]


def _same(one: Rotary | None, other: Rotary | None, rows: int) -> bool:
    """Whether two rotations are the same at the first positions."""
    if one is None or other is None:
        return one is other
    tables = zip((one.sin, one.cos), (other.sin, other.cos))
    near = one.sin.device == other.sin.device  # another device has tables of its own
    return near and one.adjacent == other.adjacent and all(torch.equal(a[:rows], b[:rows]) for a, b in tables)
