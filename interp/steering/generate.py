"""`generate`: continue prompts under interventions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.trust import ENGINES
from interp.models import Model
from interp.steering.decoder import Decoder
from interp.steering.fast_decoder import FastDecoder
from interp.steering.intervention import Intervention, flat, own_weights
from interp.steering.prompts import Prompts, read
from interp.steering.steer import steer
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
