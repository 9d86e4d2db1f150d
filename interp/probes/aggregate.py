"""From the tokens of a prompt to one score: five aggregations (probes of Gemini, 2601.11516).

With values s_t = v · h_t and attention a_t = q · h_t at the real tokens t of a prompt, and heads added up:

| kind      | score                                                                          |
|-----------|--------------------------------------------------------------------------------|
| mean      | mean of s_t                                                                    |
| ema       | max over t of m_t = s_t / 2 + m_(t−1) / 2, m_0 = s_0                           |
| attention | Σ_t softmax(a)_t s_t                                                           |
| multimax  | max over t of s_t, for each head                                               |
| rolling   | max over t of the same as attention over the last 10 tokens up to t            |

A mean dilutes what is said once in a long prompt, a maximum does not. All are the same whatever the padding.
Source: the table of methods in the paper, from its text; the training is ours (`train`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._brief import brief

KINDS = ("mean", "ema", "attention", "multimax", "rolling")
WINDOW = 10  # tokens
_DECAY = 0.5
_LOW = -1e30


@dataclass(frozen=True, eq=False)
class Weights:
    """Values `v`, attention `q` (used by attention and rolling) and the bias of one or more probes."""

    v: Float[Tensor, "fit d head"]
    q: Float[Tensor, "fit d head"]
    b: Float[Tensor, "fit"]
    __repr__ = brief


def scores(
    kind: str,
    tokens: Float[Tensor, "prompt pos d"],
    real: Bool[Tensor, "prompt pos"],
    weights: Weights,
) -> Float[Tensor, "fit prompt"]:
    """The score of every prompt by every probe, before a sigmoid. Tokens are padded on the right."""
    if kind not in KINDS:
        raise ValueError(f"the aggregation is {kind!r}; use one of {', '.join(KINDS)}.")
    s = torch.einsum("ptd,fdh->fpth", tokens, weights.v)
    if kind == "mean":
        found = _mean(s, real)
    elif kind == "ema":
        found = _ema(s, real)
    elif kind == "multimax":
        found = s.masked_fill(~real[..., None], -torch.inf).amax(2).sum(-1)
    else:
        a = torch.einsum("ptd,fdh->fpth", tokens, weights.q).masked_fill(~real[..., None], _LOW)
        found = _attention(s, a) if kind == "attention" else _rolling(s, a, real)
    return found + weights.b[:, None]


def _mean(s: Tensor, real: Tensor) -> Float[Tensor, "fit prompt"]:
    share = real.to(s) / real.sum(1, keepdim=True)
    return torch.einsum("fpth,pt->fp", s, share)


def _ema(s: Tensor, real: Tensor) -> Float[Tensor, "fit prompt"]:
    t = torch.arange(s.shape[2], device=s.device)
    age = t[:, None] - t  # [pos, source]
    share = torch.where(t > 0, _DECAY, 1.0) * (1 - _DECAY) ** age.clamp(min=0)
    share = torch.where(age >= 0, share, 0.0).to(s)
    means = torch.einsum("fpsh,ts->fpt", s, share)
    return means.masked_fill(~real, -torch.inf).amax(2)


def _attention(s: Tensor, a: Tensor) -> Float[Tensor, "fit prompt"]:
    return (a.softmax(2) * s).sum((2, 3))


def _rolling(s: Tensor, a: Tensor, real: Tensor) -> Float[Tensor, "fit prompt"]:
    before = (0, 0, WINDOW - 1, 0)  # positions before the first token, which no window counts
    s = torch.nn.functional.pad(s, before).unfold(2, WINDOW, 1)  # [fit, prompt, pos, head, window]
    a = torch.nn.functional.pad(a, before, value=_LOW).unfold(2, WINDOW, 1)
    value = (a.softmax(-1) * s).sum((3, 4))  # [fit, prompt, pos]
    return value.masked_fill(~real, -torch.inf).amax(2)
