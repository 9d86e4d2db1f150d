"""`generate`: continue prompts under interventions, one token after another.

1. Prompts are padded on the left, and interventions checked.
2. A decoder (`_decoders`) gives the logits of the next token of every row: by the model's weights where they
   give the model's logits, else by the model under hooks.
3. The likeliest token is taken, or one is drawn; a row ends at the end of its text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb, warn
from interp.models import Model, anatomy
from interp.places import hook_name
from interp.prompts import Prompts, read, turn_end
from interp.steering._clock import Clock
from interp.steering._decoders import Decoder, FastDecoder
from interp.steering._intervention import Intervention, flat
from interp.steering._steer import own_weights, steered
from interp.tasks import vocabulary


@verb
def generate(
    model: Model,
    prompts: Any,
    *interventions: Any,
    max_new_tokens: int = 20,
    use_cache: bool = True,
    mask: Tensor | None = None,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Any = None,  # a token id, a string of one token, or several of either
    pad: int | None = None,
    seed: int = 0,
    engine: str = "auto",
) -> Int[Tensor, "prompt total"]:
    """Prompt and continuation of each row, as token ids.

    prompts: strings, chat messages, or ids [prompt, pos] with `mask` 1 where a token is real. Each row is
    its prompt, what is generated, then padding; rows padded on the left stay so. temperature 0 takes the most
    likely token; above, tokens are drawn, by `seed`, from the `top_k` most likely ones, and of those from the
    fewest that have `top_p` of the probability; at 0, where nothing is drawn, neither may be given. stop:
    token ids, or strings of one token, after which a row ends; None: at the end of the text and, for
    messages, of the turn; () for never. pad: the id that fills rows (default: the tokenizer's, or 0). engine:
    "fast" runs the model's weights, "reference" the model under hooks; they give the same. "auto" takes the
    first where it can, and else warns why: not with hooks of yours, or an architecture whose logits it does
    not reproduce.

    With and without a cache the tokens are the same, and each row is that of its prompt alone, drawn ones too
    (equal prompts of a batch draw differently). Cost: with a cache a pass over the prompt, then one token a
    pass. The model is left as found. Raises ValueError, before any pass, for interventions that the model
    cannot take, positions outside the run, and runs longer than the model's context; with engine="fast" where
    that cannot run, and for a model that does not run in its dtype; and, with the layer, for logits that are
    not finite.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> tokens = interp.steering.generate(model, "Mary gave a book to", max_new_tokens=1)
        >>> tokens.shape[0]
        1
    """
    rows = read(model, prompts, mask)
    checked = [each.check(model) for each in flat(interventions)]
    draws = Draws(temperature, top_k, top_p, seed)
    check_run(model, rows, max_new_tokens, draws)
    ends = end_ids(model, rows, stop)
    for each in checked:
        each.when.check(int(rows.lengths.min()), int(rows.lengths.max()) + max_new_tokens, rows.spans)
    fill = vocabulary.pad(model) if pad is None else pad
    tokens, real = left_padded(rows, fill)
    reach = tokens.shape[1] + max_new_tokens
    with torch.no_grad(), decoding(model, tokens, real, checked, use_cache, engine, reach, rows) as decoder:
        whole = continued(decoder, max_new_tokens, ends, fill, draws.chooser(rows))
    if whole is None:
        raise ValueError(_broken(model, checked, decoder.tokens, decoder.mask, rows))
    return behind_the_ids(whole, real, fill, rows, mask)


WRITES_NOTHING = "Nothing can be generated: read its logits under steering.steer(...)."


@contextmanager
def decoding(
    model: Model,
    tokens: Tensor,
    real: Tensor,
    made: Sequence[Intervention],
    use_cache: bool,
    engine: str,
    reach: int = 0,
    rows: Prompts | None = None,
) -> Iterator[Decoder | FastDecoder]:
    """By the weights, or of the model under hooks, which "auto" warns of.

    reach: tokens that the longest row will have; rows: the prompts.
    """
    lengths = real.sum(1)
    require_next_tokens(model, WRITES_NOTHING)
    weights = own_weights(
        model, made, right_padded(tokens, real, 0), lengths, engine=engine,
        reach=min(reach, vocabulary.context(model) or reach),
        instead=f"a pass of {len(tokens):,} rows through the model and its hooks for every token",
    )  # fmt: skip
    if weights is not None:
        yield FastDecoder(weights, tokens, real, made, use_cache=use_cache, prompts=rows)
        return
    given = lengths if rows is None else rows
    if use_cache and not anatomy(model).causal:
        use_cache = False
        warn(
            "decoding runs without a cache, so every token costs a pass over the whole text: attention goes "
            "both ways, and what is cached of the earlier tokens has not seen the later ones."
        )
    if use_cache and anatomy(model).straddled(tokens.shape[1], reach - 1):
        use_cache = False
        warn(
            "decoding runs without a cache, so every token costs a pass over the whole text: rotary angles "
            "change with the length of the text on the way, and a cache holds those of the shorter one."
        )
    with steered(model, made, Clock(given)) if made else nullcontext():
        yield Decoder(model, tokens, real, use_cache)


@verb
def texts(model: Model, tokens: Int[Tensor, "prompt pos"]) -> list[str]:
    """The rows of `generate` as strings, padding and all.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> interp.steering.texts(model, model.to_tokens("Mary gave a book to John", prepend_bos=False))
        ['Mary gave a book to John']
    """
    return [vocabulary.decode(model, row) for row in tokens.tolist()]


def left_padded(rows: Prompts, fill: int) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"]]:
    """Tokens with the padding moved to the left, and which of them are real."""
    shift = rows.tokens.shape[1] - rows.lengths  # columns of padding
    column = torch.arange(rows.tokens.shape[1], device=rows.tokens.device) - shift[:, None]
    real = column >= 0
    return rows.tokens.gather(1, column.clamp(min=0)).masked_fill(~real, fill), real


def continued(
    decoder: Any, n_new: int, ends: Int[Tensor, "end"], fill: int, choose: Chooser = None
) -> Tensor | None:
    """Prompts and what a decoder makes follow; None where logits are not finite."""
    over = torch.zeros(len(decoder.tokens), dtype=torch.bool, device=decoder.tokens.device)
    for _ in range(n_new):
        logits = decoder.logits()
        highest, likeliest = logits.max(-1)  # NaN is the highest
        if not bool(highest.isfinite().all()):
            return None
        new = likeliest if choose is None else choose(logits)
        decoder.append(new.masked_fill(over, fill))
        if len(ends):
            over = over | torch.isin(new, ends)
            if bool(over.all()):
                break
    return decoder.tokens


def _broken(model: Model, made: Sequence[Intervention], tokens: Tensor, real: Tensor, rows: Prompts) -> str:
    """Where the stream of the text so far is no longer finite, in words."""
    first: list[int] = []

    def look(tensor: Tensor, hook: Any, layer: int) -> Tensor:
        if not first and not bool(tensor[real.bool()].isfinite().all()):
            first.append(layer)
        return tensor

    layers = range(model.cfg.n_layers)
    hooks = [(hook_name("resid_post", layer), partial(look, layer=layer)) for layer in layers]
    mask = {} if bool(real.bool().all()) else {"attention_mask": real.long()}
    with torch.no_grad(), steered(model, made, Clock(rows)), model.hooks(fwd_hooks=hooks):
        model(tokens, **mask)
    where = (
        f"the stream is not finite from layer {first[0]} on (L{first[0]}.resid_post)"
        if first
        else ("the stream is finite, its logits are not")
    )
    return (
        f"the logits are not finite after {tokens.shape[1] - rows.tokens.shape[1]} new tokens: {where}. "
        "Steer less, or load the model in float32."
    )


def end_ids(model: Model, rows: Prompts, stop: Any) -> Int[Tensor, "end"]:
    """The token ids that end a row. ValueError for anything that is none."""
    if stop is None:
        ids = vocabulary.ends(model) | ({turn_end(model)} if rows.chat else set())
    else:
        if not isinstance(stop, (int, str)) and not hasattr(stop, "__iter__"):
            raise ValueError(f"stop is {shown(stop)}; give a token id, a string of one token, or a list.")
        listed = [stop] if isinstance(stop, (int, str)) else list(stop)
        ids = {_end(model, each) for each in listed}
    found = sorted(each for each in ids if each is not None)
    return torch.tensor(found, dtype=torch.long, device=rows.tokens.device)


def _end(model: Model, given: Any) -> int:
    ids = vocabulary.encode(model, given, False) if isinstance(given, str) else [given]
    if len(ids) != 1:
        raise ValueError(
            f"stop={given!r} is {len(ids)} tokens, {ids}; a row stops at one. Give a token id, or () to go "
            "on."
        )
    one = ids[0]
    if (
        isinstance(one, bool)
        or not isinstance(one, (int, np.integer))
        or not 0 <= one < vocabulary.size(model)
    ):
        raise ValueError(
            f"stop={given!r} is no token id from 0 to {vocabulary.size(model) - 1}, and no string of one "
            "token."
        )
    return int(one)


Chooser = Callable[[Tensor], Tensor] | None  # logits [row, vocab] -> ids [row]; None: the likeliest


@dataclass(frozen=True)
class Draws:
    """How tokens are drawn from their probabilities."""

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def chooser(self, rows: Prompts) -> Chooser:
        """Draws for these rows; a row's numbers come from the seed and its prompt, and how often it came."""
        if self.temperature == 0:
            return None
        seen: Counter[tuple[int, ...]] = Counter()
        generators = []
        for row, length in zip(rows.tokens.tolist(), rows.lengths.tolist()):
            key = tuple(row[:length])
            digest = hashlib.sha256(f"{self.seed} {seen[key]} {key}".encode()).digest()
            seen[key] += 1
            generators.append(torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))
        return lambda logits: self._drawn(logits, generators)

    def _drawn(
        self, logits: Float[Tensor, "row vocab"], generators: list[torch.Generator]
    ) -> Int[Tensor, "row"]:
        shares, ids = self.shares(logits.cpu())
        level = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in generators])
        total = shares.cumsum(-1)
        at = torch.searchsorted(total, (level * total[:, -1])[:, None], right=True).clamp(
            max=shares.shape[1] - 1
        )
        return ids.gather(1, at)[:, 0].to(logits.device)

    def shares(self, logits: Tensor) -> tuple[Float[Tensor, "row rank"], Int[Tensor, "row rank"]]:
        """Probabilities of the tokens that can be drawn, and their ids; of equal ones the lower id first."""
        wide = logits.double()
        scaled = (wide - wide.max(-1, keepdim=True).values) / self.temperature  # the largest stays 0
        if self.top_k is None and self.top_p is None:
            return scaled.softmax(-1), torch.arange(scaled.shape[1]).expand_as(scaled)
        scaled, ids = torch.sort(scaled, dim=-1, descending=True, stable=True)
        shares = scaled[:, : self.top_k].softmax(-1)
        if self.top_p is not None:
            shares = shares.masked_fill(shares.cumsum(-1) - shares >= self.top_p, 0.0)
        return shares, ids[:, : self.top_k]


def right_padded(whole: Tensor, real: Tensor, fill: int) -> Tensor:
    """Each row moved to the left edge."""
    shift = real.shape[1] - real.sum(1)
    column = torch.arange(whole.shape[1], device=whole.device) + shift[:, None]
    inside = column < whole.shape[1]
    return whole.gather(1, column.clamp(max=whole.shape[1] - 1)).masked_fill(~inside, fill)


def behind_the_ids(
    whole: Int[Tensor, "row total"], real: Bool[Tensor, "row pos"], fill: int, rows: Prompts, mask: Any
) -> Int[Tensor, "row wide"]:
    """Rows that were padded on the left as they were given, new tokens behind them; others to the left."""
    marks = None if mask is None else torch.as_tensor(mask).reshape(len(rows), -1)
    if marks is None or bool(marks[:, 0].all()):
        return right_padded(whole, real, fill)
    more = marks.shape[1] - real.shape[1]  # columns of padding that no row needs
    return torch.nn.functional.pad(whole, (more, 0), value=fill)


def no_next_tokens(model: Model, *, taught: bool = False) -> str | None:
    """Why a model's logits do not foretell the token that comes next; None where they do.

    taught: the tokens stand behind the prompt, where a model whose attention goes both ways would see them.
    """
    name, reads, gives = anatomy(model).name, vocabulary.size(model), vocabulary.output_size(model)
    if reads != gives:
        return f"{name} reads {reads} tokens and gives logits for {gives}, which are of no next token."
    if taught and not anatomy(model).causal:
        return f"attention of {name} goes both ways, so it would see the tokens that it is to foretell."
    return None


def require_next_tokens(model: Model, instead: str, *, taught: bool = False) -> None:
    """ValueError for a model whose logits are of other things than the token that comes next."""
    if (why := no_next_tokens(model, taught=taught)) is not None:
        raise ValueError(f"{why} {instead}")


def check_run(model: Model, rows: Prompts, n_new: int, draws: Draws) -> None:
    """ValueError for runs that the model's context cannot hold, and for draws that cannot be."""
    size = vocabulary.output_size(model)
    for name, value, most in (("max_new_tokens", n_new, None), ("top_k", draws.top_k, size)):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is not None and not (whole and 1 <= value <= (most or value)):
            end = "" if most is None else f", and at most {most}, the size of the vocabulary"
            raise ValueError(f"{name} is {value}; it must be 1 or more, a whole number{end}.")
    if not isinstance(draws.temperature, (int, float)) or not 0 <= draws.temperature < float("inf"):
        raise ValueError(f"temperature is {draws.temperature}; it must be finite and 0 or more.")
    if draws.top_p is not None and not (isinstance(draws.top_p, (int, float)) and 0 < draws.top_p <= 1):
        raise ValueError(f"top_p is {draws.top_p}; it must be above 0 and at most 1.")
    for name, value in (("top_k", draws.top_k), ("top_p", draws.top_p)):
        if value is not None and draws.temperature == 0:
            raise ValueError(
                f"{name} is {value} at temperature 0, which takes the likeliest token and draws none. Give a "
                f"temperature above 0, or leave {name} out."
            )
    limit, shortest, longest = vocabulary.context(model), int(rows.lengths.min()), int(rows.lengths.max())
    if shortest != longest and (reason := anatomy(model).straddled(shortest, longest + n_new - 1)):
        raise ValueError(reason)
    if limit is not None and longest + n_new - 1 > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and {n_new} new ones need a context of {longest + n_new - 1}; the "
            f"model has {limit}. Generate fewer tokens."
        )
