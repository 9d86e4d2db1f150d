"""`generate`: continue prompts under interventions, one token after another.

Two decoders give the logits of the next token of every row. `FastDecoder` runs the model's weights, without
hook points: keys and values of every layer stand in buffers of the run's full length; a step writes its own
column and attends to all before it. `Decoder` runs the model itself, under hooks, with or without its own
cache.

Rows are padded on the left; padding is masked, and positions, learned and rotary, count from each row's first
real token. HookedTransformer.generate does not do that without a tokenizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.forward import forward, unembed
from interp.engine.trust import ENGINES
from interp.models import Model, cache_holds, is_bridge
from interp.models.parts import Block, Weights
from interp.prompts import Prompts, read
from interp.steering._clock import Clock
from interp.steering._intervention import Intervention, flat, own_weights, steer, taps
from interp.tasks import vocabulary


def generate(
    model: Model,
    prompts: Any,
    *interventions: Any,
    max_new_tokens: int = 20,
    use_cache: bool = True,
    mask: Bool[Tensor, "prompt pos"] | None = None,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    stop: Sequence[int] = (),
    pad: int | None = None,
    engine: str = "auto",
) -> Int[Tensor, "prompt total"]:
    """Prompt and continuation of each row, as token ids.

    prompts: strings, or ids [prompt, pos] with `mask` True where a token is real. Each row is its prompt,
    what is generated, then padding; rows padded on the left stay so. temperature 0 takes the most likely
    token; above, tokens are drawn, by `seed`, from the `top_k` most likely ones. stop: ids after which a row
    ends. pad: the id that fills rows (default: the tokenizer's, or 0). engine: "fast" runs the model's
    weights, "reference" the model under hooks; they give the same. "auto" takes the first where it can: not
    with hooks of yours, edits of attention scores, or an architecture whose logits it does not reproduce.

    With and without a cache the tokens are the same, and those of padded rows are those of each row alone.
    Cost: with a cache a pass over the prompt, then one token a pass. The model is left as found. Raises
    ValueError, before any pass, for interventions that the model cannot take, positions outside the run, and
    runs longer than the model's context; with engine="fast" where that cannot run.
    """
    rows = read(model, prompts, mask)
    checked = [each.check(model) for each in flat(interventions)]
    _check(model, rows, max_new_tokens, temperature, top_k)
    for each in checked:
        each.when.check(int(rows.lengths.min()), int(rows.lengths.max()) + max_new_tokens)
    fill = vocabulary.pad(model) if pad is None else pad
    tokens, real = left_padded(rows, fill)
    generator = torch.Generator().manual_seed(seed)
    reach = tokens.shape[1] + max_new_tokens
    with torch.no_grad(), decoding(model, tokens, real, checked, use_cache, engine, reach) as decoder:
        whole = _decode(decoder, max_new_tokens, temperature, top_k, generator, stop, fill)
    on_left = mask is not None and not bool(mask.reshape(len(rows), -1)[:, 0].all())
    return whole if on_left else _right_padded(whole, real, fill)


@contextmanager
def decoding(
    model: Model,
    tokens: Tensor,
    real: Tensor,
    made: Sequence[Intervention],
    use_cache: bool,
    engine: str,
    reach: int = 0,
) -> Iterator[Decoder | FastDecoder]:
    """By the weights, or of the model under hooks. reach: tokens that the longest row will have."""
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}.")
    if engine != "reference":
        on_left = _right_padded(tokens, real, 0), real.sum(1)
        weights = own_weights(model, made, *on_left, min(reach, vocabulary.context(model) or reach))
        if not isinstance(weights, str):
            yield FastDecoder(weights, tokens, real, made, use_cache=use_cache)
            return
        if engine == "fast":
            raise ValueError(f"the fast engine cannot run this: {weights}. Use engine='reference'.")
    steered = steer(model, *made, prompt_length=real.sum(1)) if made else nullcontext()
    with steered:
        yield Decoder(model, tokens, real, use_cache)


def texts(model: Model, tokens: Int[Tensor, "prompt pos"]) -> list[str]:
    """The rows of `generate` as strings, padding and all."""
    return [vocabulary.decode(model, row) for row in tokens.tolist()]


def left_padded(rows: Prompts, fill: int) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Tokens with the padding moved to the left, and which of them are real."""
    shift = rows.tokens.shape[1] - rows.lengths  # columns of padding
    column = torch.arange(rows.tokens.shape[1], device=rows.tokens.device) - shift[:, None]
    real = column >= 0
    return rows.tokens.gather(1, column.clamp(min=0)).masked_fill(~real, fill), real


def _decode(
    decoder: Decoder | FastDecoder,
    n_new: int,
    temperature: float | int,
    top_k: int | None,
    generator: torch.Generator,
    stop: Sequence[int],
    fill: int,
) -> Tensor:
    ends = torch.tensor(list(stop), dtype=torch.long, device=decoder.tokens.device)
    over = torch.zeros(len(decoder.tokens), dtype=torch.bool, device=decoder.tokens.device)
    for _ in range(n_new):
        new = choose(decoder.logits(), temperature, top_k, generator)
        decoder.append(new.masked_fill(over, fill))
        if len(ends):
            over = over | torch.isin(new, ends)
            if bool(over.all()):
                break
    return decoder.tokens


def choose(
    logits: Float[Tensor, "row vocab"],
    temperature: float | int,
    top_k: int | None,
    generator: torch.Generator,
) -> Int[Tensor, "row"]:
    """The most likely tokens, or tokens drawn at a temperature from the top_k most likely."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = logits.double() / temperature
    if top_k is not None:
        lowest = scaled.topk(min(top_k, scaled.shape[-1]), -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < lowest, -torch.inf)
    drawn = torch.multinomial(scaled.softmax(-1).cpu(), 1, generator=generator)
    return drawn[:, 0].to(logits.device)


def _right_padded(whole: Tensor, real: Tensor, fill: int) -> Tensor:
    """Each row moved to the left edge."""
    shift = real.shape[1] - real.sum(1)
    column = torch.arange(whole.shape[1], device=whole.device) + shift[:, None]
    inside = column < whole.shape[1]
    return whole.gather(1, column.clamp(max=whole.shape[1] - 1)).masked_fill(~inside, fill)


def _check(model: Model, rows: Prompts, n_new: int, temperature: float | int, top_k: int | None) -> None:
    if n_new < 1:
        raise ValueError(f"max_new_tokens is {n_new}; it must be 1 or more.")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and 0 or more.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be 1 or more.")
    limit, longest = vocabulary.context(model), int(rows.lengths.max())
    if limit is not None and longest + n_new - 1 > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and {n_new} new ones need a context of {longest + n_new - 1}; the "
            f"model has {limit}. Generate fewer tokens."
        )


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
        if not self.use_cache:
            options = {"attention_mask": self.mask} if self._padded else {}
            return self.model(self.tokens, **options)[:, -1]
        return (self._bridge() if is_bridge(self.model) else self._hooked())[:, -1]

    def append(self, new: Int[Tensor, "row"]) -> None:
        """Add a token to every row."""
        self.tokens = torch.cat((self.tokens, new[:, None]), 1)
        self.mask = torch.cat((self.mask, torch.ones_like(new[:, None])), 1)

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
            warnings.warn(
                "decoding runs without a cache, so every token costs a pass over the whole text: after the "
                "prompt the model's key-value cache does not hold the prompt. The installed releases of "
                "transformers and transformer-lens hand it on under different names; transformers<5.24 "
                "and transformer-lens agree.",
                stacklevel=2,
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
    ) -> None:
        self.weights, self.tokens, self.mask, self.use_cache = parts, tokens, real, use_cache
        self.clock = Clock(real.sum(1))
        self.taps = taps(interventions, self.clock)
        self._first = None if bool(real.all()) else real.int().argmax(1)  # [row], the first real column
        self._done = 0  # columns in the cache
        self._cache: list[tuple[Tensor, Tensor]] = []

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
        return unembed(self.weights, final[:, -1])

    def append(self, new: Int[Tensor, "row"]) -> None:
        """Add a token to every row."""
        self.tokens = torch.cat((self.tokens, new[:, None]), 1)
        self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), 1)

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
        self._hidden: dict[int | None, Tensor | None] = {}

    def __call__(self, block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
        n, at, attn, h = len(self.column), self.position, block.attn, B.normed(block.attn_norm, x)
        q, k, v = B.qkv(attn, layer, (h, at), (h, at), tap)  # each [row · pos, head, d_head]
        rows, heads = len(q) // n, q.shape[1]
        k, v = (each.unflatten(0, (rows, n)).transpose(1, 2) for each in (k, v))
        k, v = self.decoder.remember(layer, self.start, k, v)
        kv = k.shape[1]
        q = q.view(rows, n, kv, heads // kv, -1).permute(0, 2, 3, 1, 4).reshape(rows, kv, -1, q.shape[-1])
        scores = ((q @ k.transpose(-1, -2)) / attn.scale).view(rows, heads, n, -1)
        scores = B.biased(attn, scores, self.column)
        hidden = self.hidden(attn.window)
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        z = scores.softmax(-1).view(rows, kv, -1, k.shape[2]) @ v  # [row, kv, share · pos, d_head]
        z = z.view(rows, heads, n, -1).transpose(1, 2).reshape(rows * n, heads, -1)
        return tap("z", layer, z)

    def hidden(self, window: int | None) -> Tensor | None:
        """The mask [query, key] or [row, 1, query, key], once a pass for each window."""
        if window not in self._hidden:
            found = self.decoder.hidden(self.start, self.column, window)
            self._hidden[window] = found if found is None or found.ndim == 2 else found[:, None]
        return self._hidden[window]
