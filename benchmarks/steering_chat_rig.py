"""Passes of the study on a chat model: answers read behind prompts that are kept, edits side by side.

Every edit of the study acts from the token on that makes the first new one (`positions.generated`), so the
keys and values of the prompt before it are the unsteered model's and are kept once. An answer is read in one
pass behind them; an edit at the layer or above starts from the kept stream there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import interp
from interp import positions, steering
from interp.engine.forward import forward, unembed
from interp.models.parts import Weights
from interp.places import Place
from interp.prompts import Prompts
from interp.steering._clock import Clock
from interp.steering._decoders import FastDecoder, _Attend
from interp.steering._generate import continued, left_padded
from interp.steering._intervention import Intervention, flat
from interp.steering._steer import taps
from interp.tasks import vocabulary

Made = Sequence[Any]
Ids = Sequence[Sequence[int]]


class Talks(FastDecoder):
    """Prompts whose keys and values are kept, up to the token before the last."""

    def __init__(self, weights: Weights, prompts: Prompts) -> None:
        tokens, real = left_padded(prompts, 0)
        super().__init__(weights, tokens[:, :-1], real[:, :-1], use_cache=True, prompts=prompts)
        self.prompts, self.last, self.prefix_real = prompts, tokens[:, -1:], real[:, :-1]
        with torch.no_grad():
            self.logits()

    def cache(self, k: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the prompts, k times."""
        pairs = [[each[:, :, : self._done].detach() for each in pair] for pair in self._cache]
        return [(keys.repeat(k, 1, 1, 1), values.repeat(k, 1, 1, 1)) for keys, values in pairs]

    def through(self, x: Tensor | None, ids: Tensor, start: int, stop: int | None, made: Made) -> Tensor:
        """The stream [row, t, d] before block `stop`, of columns behind the prompts from block `start` on.

        ids [row, t]: the last token of the prompt and an answer; x: their stream before `start`.
        """
        offset, n = self._done, ids.shape[1]
        self._cache = [(k.detach(), v.detach()) for k, v in self._cache]  # no slopes of the pass before
        self.mask = torch.cat((self.prefix_real, torch.ones_like(ids, dtype=torch.bool)), 1)
        column = torch.arange(offset, offset + n)
        position = column if self._first is None else column - self._first[:, None]
        self.clock.start(ids)
        self.clock.tick(offset, None if self._first is None else self.mask, (len(ids), n), ids.device)
        self.taps = taps(flat(made), self.clock)
        attend = _Attend(self, offset, column, position.expand(ids.shape).flatten())
        x = self.weights.embed_at(ids, position) if x is None else x
        return forward(self.weights, x, start, self.taps, attend, stop=stop)


class Answers:
    """Answers behind prompts, one a row: their logits under edits. layer: where the stream is kept."""

    def __init__(self, talks: Talks, answers: Ids, layer: int, most: int | None = None) -> None:
        cut = [list(row)[:most] for row in answers]
        self.talks, self.layer, longest = talks, layer, max(map(len, cut))
        self.tokens = torch.tensor([row + [0] * (longest - len(row)) for row in cut])  # [row, t]
        self.real = torch.arange(longest) < torch.tensor(list(map(len, cut)))[:, None]
        self.ids = torch.cat((talks.last, self.tokens[:, :-1]), 1)
        with torch.no_grad():
            self.kept = talks.through(None, self.ids, 0, layer, ())

    def logits(self, made: Made = ()) -> Float[Tensor, "row t vocab"]:
        """Those that make each token of the answers."""
        start = min((each.first_layer for each in flat(made)), default=self.layer)
        begin = (self.kept, self.layer) if start >= self.layer else (None, 0)
        final = self.talks.through(begin[0], self.ids, begin[1], None, made)
        return unembed(self.talks.weights, final.flatten(0, 1)).unflatten(0, self.ids.shape)

    def log_probs(self, made: Made = ()) -> Float[Tensor, "row"]:
        """Mean log-probability of a token of each answer, nats."""
        log = self.logits(made).log_softmax(-1).gather(-1, self.tokens[..., None])[..., 0]
        return self.mean(log)

    def mean(self, by_token: Float[Tensor, "row t"]) -> Float[Tensor, "row"]:
        """Over the tokens of each answer."""
        return (by_token * self.real).sum(1).double() / self.real.sum(1)


class Divergence:
    """KL(unsteered ‖ edited) over the unsteered answers, mean over their first tokens, by row."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        with torch.no_grad():
            self.base = answers.logits().log_softmax(-1)

    def __call__(self, made: Made, answers: Answers | None = None) -> Float[Tensor, "row"]:
        """answers: the same answers behind other prompts (by default behind their own)."""
        with torch.no_grad():
            log = (answers or self.answers).logits(made).log_softmax(-1)
            return self.answers.mean((self.base.exp() * (self.base - log)).sum(-1))


@dataclass(frozen=True)
class Found:
    """A strength and the mean KL that it gives; strength NaN where none gives the target."""

    strength: float
    kl: float


def calibrate(
    kl: Callable[[float], float], target: float, start: float, most: float = math.inf, rounds: int = 9
) -> Found:
    """The strength whose KL is the target within 10 %: KL goes about as its square, so in logarithms."""
    low, high = (0.0, 0.0), (math.inf, math.inf)  # strength and KL below and above the target
    at, best = min(start, most), Found(math.nan, math.nan)
    for round in range(rounds):
        value = max(kl(at), 1e-9)
        if abs(value / target - 1) <= 0.1:
            return Found(at, value)
        if math.isnan(best.kl) or abs(math.log(value / target)) < abs(math.log(best.kl / target)):
            best = Found(at, value)
        if value < target:
            low = (at, value)
        else:
            high = (at, value)
        if low[0] >= most:
            break
        at = min(_next(low, high, target, round), most)
    return best if abs(best.kl / target - 1) <= 0.15 else Found(math.nan, best.kl)


def _next(low: tuple[float, float], high: tuple[float, float], target: float, round: int) -> float:
    if low[0] and high[0] < math.inf:
        share = math.log(target / low[1]) / math.log(max(high[1] / low[1], 1 + 1e-9))
        share = 0.5 if round % 3 == 2 else min(max(share, 0.1), 0.9)
        return math.exp(math.log(low[0]) + share * math.log(high[0] / low[0]))
    only = low if low[0] else high
    return only[0] * min(max((target / only[1]) ** 0.5, 0.25), 3.0)


def in_blocks(conditions: Sequence[Made], n: int) -> list[Intervention]:
    """Edits of a batch in which each condition has n rows: block i has those of condition i alone."""
    by_place: dict[Place, dict[int, list[Callable[[Tensor], Tensor]]]] = {}
    for i, made in enumerate(conditions):
        for each in flat(made):
            by_place.setdefault(each.place, {}).setdefault(i, []).append(each.edit)
    edits = {place: partial(_by_block, by_block=blocks, n=n) for place, blocks in by_place.items()}
    return [Intervention(place, edit, positions.generated) for place, edit in edits.items()]


def _by_block(h: Tensor, by_block: dict[int, list[Callable[[Tensor], Tensor]]], n: int) -> Tensor:
    parts = list(h.split(n))
    for i, edits in by_block.items():
        for edit in edits:
            parts[i] = edit(parts[i])
    return torch.cat(parts)


@dataclass(frozen=True)
class Written:
    """What was written to each prompt: its ids without the end of the turn, and whether that came."""

    ids: list[list[int]]
    ended: list[bool]


def write(talks: Talks, conditions: Sequence[Made], n_new: int, ends: set[int]) -> list[Written]:
    """Greedy answers to the prompts under each condition, all in one batch; ends: ids that end an answer."""
    k, n = len(conditions), len(talks.prompts)
    made = in_blocks(conditions, n) if k > 1 else flat(conditions)
    prompts = Prompts(talks.prompts.tokens.repeat(k, 1), talks.prompts.lengths.repeat(k))
    tokens, real = left_padded(prompts, 0)
    decoder = FastDecoder(talks.weights, tokens, real, made, use_cache=True, prompts=prompts)
    decoder._cache, decoder._done = talks.cache(k), tokens.shape[1] - 1
    with torch.no_grad():
        whole = continued(decoder, n_new, torch.tensor(sorted(ends), dtype=torch.long), 0)
    if whole is None:
        raise ValueError("the logits are not finite: steer less.")
    column = tokens.shape[1]
    texts = answers_of(whole[:, column:], ends)
    return [Written(texts.ids[i * n : (i + 1) * n], texts.ended[i * n : (i + 1) * n]) for i in range(k)]


def answers_of(new: Int[Tensor, "row pos"], ends: set[int]) -> Written:
    """Each row's new tokens before the first that ends the turn."""
    ids, ended = [], []
    for row in new.tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), None)
        ids.append(row[:stop])
        ended.append(stop is not None)
    return Written(ids, ended)


class Asked:
    """Plain prompts with a right answer and wrong ones: what an edit does to another task.

    The edit acts on all tokens but the first, where the stream is a hundred times as long as elsewhere.
    """

    when = positions.window(1, None)

    def __init__(self, weights: Weights, rows: Ids, right: Sequence[int], wrong: Ids, layer: int) -> None:
        lengths = torch.tensor(list(map(len, rows)))
        longest = int(lengths.max())
        tokens = torch.tensor([list(row) + [0] * (longest - len(row)) for row in rows])
        self.weights, self.prompts, self.layer = weights, Prompts(tokens, lengths), layer
        self.right, self.wrong = list(right), [list(each) for each in wrong]
        with torch.no_grad():
            self.kept = forward(weights, weights.embed(tokens), 0, stop=layer)

    def gaps(self, made: Made = ()) -> Float[Tensor, "row"]:
        """Logit of the right answer minus that of the likeliest wrong one."""
        made, tokens = flat(made), self.prompts.tokens
        start = min((each.first_layer for each in made), default=self.layer)
        clock = Clock(self.prompts)
        clock.start(tokens)
        clock.tick(0, None, (tokens.shape[0], tokens.shape[1]), tokens.device)
        with torch.no_grad():
            begin = (self.kept, self.layer) if start >= self.layer else (self.weights.embed(tokens), 0)
            final = forward(self.weights, *begin, taps(made, clock))
            logits = unembed(self.weights, final[torch.arange(len(final)), self.prompts.lengths - 1])
        return torch.stack(
            [row[right] - row[wrong].max() for row, right, wrong in zip(logits, self.right, self.wrong)]
        )


def other_tasks(model: Any, weights: Any, layer: int, n: int = 12) -> dict[str, Asked]:
    """Capitals with four examples, who is given the object, sums of digits with three examples."""
    encode = partial(vocabulary.encode, model, prepend_bos=False)
    capitals = {
        "Germany": "Berlin", "Spain": "Madrid", "Russia": "Moscow", "China": "Beijing", "Greece": "Athens",
        "Poland": "Warsaw", "Cuba": "Havana", "Austria": "Vienna", "Ireland": "Dublin", "Peru": "Lima",
        "Norway": "Oslo", "Portugal": "Lisbon",
    }  # fmt: skip
    front = "France -> Paris\nItaly -> Rome\nJapan -> Tokyo\nEgypt -> Cairo\n"
    cities = [encode(f" {city}")[0] for city in [*capitals.values(), "Paris", "Rome", "Tokyo", "Cairo"]]
    asked = [encode(f"{front}{country} ->") for country in capitals][:n]
    right = [encode(f" {city}")[0] for city in capitals.values()][:n]
    made = {"capitals": Asked(weights, asked, right, [[c for c in cities if c != r] for r in right], layer)}
    ioi = interp.tasks.ioi(model, n, prepend_bos=False)
    rows = [row[: int(k)] for row, k in zip(ioi.clean.tolist(), ioi.lengths)]
    wrong = [[x for x in row if x >= 0] for row in ioi.wrongs.tolist()]
    made["objects"] = Asked(weights, rows, ioi.answers[:, 0].tolist(), wrong, layer)
    digits = [encode(str(d))[0] for d in range(10)]
    pairs = [(a, b) for a in range(1, 8) for b in range(1, 9 - a)][::2][:n]
    asked = [encode(f"1 + 2 = 3\n4 + 3 = 7\n2 + 6 = 8\n{a} + {b} = ") for a, b in pairs]
    wrong = [[d for d in digits if d != digits[a + b]] for a, b in pairs]
    return made | {"sums": Asked(weights, asked, [digits[a + b] for a, b in pairs], wrong, layer)}


def repeated(ids: Sequence[int]) -> float:
    """Share of pairs of tokens that came before in the same text; 0 for texts of one or two tokens."""
    if len(ids) < 3:
        return 0.0
    return steering.measures.repetition(torch.tensor([list(ids)])).item()
