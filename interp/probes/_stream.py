"""Scores of probes as a text grows, token by token, the same as over the whole text so far.

What is kept of a row, by aggregation (the formulas stand in `aggregate`):

| kind      | state                                                                          |
|-----------|--------------------------------------------------------------------------------|
| mean      | Σ s, n                                                                         |
| ema       | the moving mean, its largest value                                             |
| attention | log Σ eᵃ, log Σ eᵃ s⁺, log Σ eᵃ s⁻ by head                                     |
| multimax  | the largest s by head                                                          |
| rolling   | the last 9 tokens' s and a, the largest value                                  |

A state takes any number of tokens at once (a prompt), or one (while text is generated); padding and rows that
are over leave it as it is. Everything stays on the device: no token costs a copy to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.probes.aggregate import _LOW, WINDOW, Weights

_BLOCK = 64  # tokens of a moving mean at once


@dataclass(eq=False)
class State:
    """What one probe knows of some rows so far. `take` gives the score after each further token."""

    kind: str
    weights: Weights
    kept: dict[str, Tensor] = field(default_factory=dict)
    columns: Float[Tensor, "d read"] = field(init=False)

    def __post_init__(self) -> None:
        v, q = (part[0].double() for part in (self.weights.v, self.weights.q))
        self.columns = torch.cat((v, q), -1) if self.kind in ("attention", "rolling") else v

    def project(self, tokens: Float[Tensor, "*lead d"]) -> Float[Tensor, "*lead read"]:
        """What the probe reads of tokens: s, and a where it has any, by head. One product."""
        if self.columns.device != tokens.device:
            self.columns = self.columns.to(tokens.device)
        return tokens.double() @ self.columns

    def take(self, tokens: Float[Tensor, "row pos d"], count: Int[Tensor, "row"]) -> Float[Tensor, "row pos"]:
        """Scores after each of a row's first `count` tokens; what lies behind them means nothing."""
        return self.add(self.project(tokens), count)

    def add(self, read: Float[Tensor, "row pos read"], count: Int[Tensor, "row"]) -> Float[Tensor, "row pos"]:
        """`take` of tokens that were projected before."""
        heads = self.weights.v.shape[-1]
        s, a = read[..., :heads], read[..., -heads:]
        real = torch.arange(s.shape[1], device=s.device) < count[:, None]
        rule = {
            "mean": _mean,
            "ema": _ema,
            "attention": _attention,
            "multimax": _multimax,
            "rolling": _rolling,
        }
        running, new = rule[self.kind](self.kept, s, a, real, count)
        for name, values in new.items():  # [row, pos + 1, ...], the state before first: the one after `count`
            at = count.view(-1, 1, *(1,) * (values.ndim - 2)).expand(-1, 1, *values.shape[2:])
            self.kept[name] = values.gather(1, at)[:, 0]
        return running + self.weights.b[0].to(running)


Step = tuple[Tensor, dict[str, Tensor]]


def _before(kept: dict[str, Tensor], name: str, like: Tensor, start: float) -> Tensor:
    """A state as a column before the new tokens: [row, 1, ...]."""
    return kept[name][:, None] if name in kept else torch.full_like(like[:, :1], start)


def _mean(kept: dict[str, Tensor], s: Tensor, a: Tensor, real: Tensor, count: Tensor) -> Step:
    total = s.sum(-1) * real
    total = torch.cat((_before(kept, "sum", total, 0.0), total), 1).cumsum(1)
    ones = real.to(s)
    n = torch.cat((_before(kept, "n", ones, 0.0), ones), 1).cumsum(1)
    return total[:, 1:] / n[:, 1:].clamp(min=1), {"sum": total, "n": n}


def _ema(kept: dict[str, Tensor], s: Tensor, a: Tensor, real: Tensor, count: Tensor) -> Step:
    value = s.sum(-1)
    last = kept["mean"][:, None] if "mean" in kept else value[:, :1]  # the first token is its own mean
    if "mean" in kept:
        last = torch.where(kept["mean"].isnan()[:, None], value[:, :1], last)
    means = [torch.full_like(value[:, :1], torch.nan) if "mean" not in kept else kept["mean"][:, None]]
    age = torch.arange(_BLOCK, device=s.device)
    gap = age[:, None] - age
    share = torch.where(gap >= 0, 0.5 ** (gap.clamp(min=0) + 1.0), 0.0).to(s)
    for part in value.split(_BLOCK, 1):
        n = part.shape[1]
        mean = part @ share[:n, :n].T + last * 0.5 ** (age[:n] + 1.0).to(s)
        means.append(mean)
        last = mean[:, -1:]
    mean = torch.cat(means, 1)
    high = torch.cat((_before(kept, "high", value, -torch.inf), mean[:, 1:]), 1).cummax(1).values
    return high[:, 1:], {"mean": mean, "high": high}


def _attention(kept: dict[str, Tensor], s: Tensor, a: Tensor, real: Tensor, count: Tensor) -> Step:
    a = a.masked_fill(~real[..., None], -torch.inf)
    parts = {"all": a, "up": a + s.clamp(min=0).log(), "down": a + (-s).clamp(min=0).log()}
    new = {
        name: torch.cat((_before(kept, name, s, -torch.inf), part), 1).logcumsumexp(1)
        for name, part in parts.items()
    }
    value = (new["up"] - new["all"]).exp() - (new["down"] - new["all"]).exp()
    return value[:, 1:].sum(-1), new


def _multimax(kept: dict[str, Tensor], s: Tensor, a: Tensor, real: Tensor, count: Tensor) -> Step:
    high = torch.cat((_before(kept, "high", s, -torch.inf), s), 1).cummax(1).values
    return high[:, 1:].sum(-1), {"high": high}


def _rolling(kept: dict[str, Tensor], s: Tensor, a: Tensor, real: Tensor, count: Tensor) -> Step:
    shape = (s.shape[0], WINDOW - 1, s.shape[2])
    old = [kept.get("s", s.new_zeros(shape)), kept.get("a", a.new_full(shape, _LOW))]
    s, a = (torch.cat((before, new), 1) for before, new in zip(old, (s, a)))
    value = (a.unfold(1, WINDOW, 1).softmax(-1) * s.unfold(1, WINDOW, 1)).sum((-1, -2))  # [row, pos]
    high = torch.cat((_before(kept, "high", value, -torch.inf), value), 1).cummax(1).values
    ends = {name: each.unfold(1, WINDOW - 1, 1).transpose(-1, -2) for name, each in (("s", s), ("a", a))}
    return high[:, 1:], {"high": high, **ends}


def compact(
    tokens: Float[Tensor, "row pos d"], real: Bool[Tensor, "row pos"]
) -> tuple[Float[Tensor, "row pos d"], Int[Tensor, "row"]]:
    """Each row's real tokens first, in their order, and how many there are."""
    order = (~real).long().argsort(dim=1, stable=True)
    return tokens.gather(1, order[..., None].expand_as(tokens)), real.sum(1)
