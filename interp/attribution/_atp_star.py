"""The two parts of AtP*: the QK fix for queries and keys, and GradDrop. Kramár et al. 2024 (2403.00745).

**QK fix** (section 3.2.1): the exact change of the pattern times the pattern's slope. The softmax saturates:
where a head attends to one token with weight near 1, the slope of the pattern in its scores is near 0 and a
first-order estimate of a query or key vanishes, however much patching it would move the pattern. So the
change of the pattern is computed exactly, and only what comes after it is linearised:

    estimate = Σ_dst Σ_src (pattern(patched) - pattern(base)) · d metric / d pattern

1. A query changes one row of the pattern: softmax again.
2. A key at p changes one score of every row, by Δ. With p the weight on it,
   logit p' = logit p + Δ, and the other weights are scaled by (1 - p') / (1 - p): no softmax for every key.
3. A cell that covers all positions, or a span, patches those keys at once: softmax again.

Base queries meet patched keys and the other way round, never patched with patched.

**GradDrop** (section 3.2.2): one backward for every layer, with what that layer writes held constant. A
component can matter along several paths whose first-order effects cancel; the estimate is then near 0 while
patching it does much. With the writes of layer l held constant the paths through l are gone and the rest
shows. The estimate is a magnitude:

    1 / n · Σ_l |estimate with layer l dropped|

n counts the layers whose dropping leaves the cell a path at all: L - 1 for what lies inside a layer (dropping
its own layer cuts it off), L for the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.attribution._scoring import Scoring
from interp.attribution._tables import Place, with_totals
from interp.models import Anatomy


@dataclass(frozen=True, eq=False)
class QueryFix:
    """Estimates for the queries of a layer from the slope in its pattern."""

    layer: int
    change: Float[Tensor, "prompt head dst src"]  # of the pattern

    @property
    def place(self) -> Place:
        return ("q", self.layer)

    @property
    def needs(self) -> Place:
        return ("pattern", self.layer)

    def table(self, slope: Tensor) -> Tensor:
        by_query = (self.change * slope).sum(-1)  # [prompt, head, dst]
        return with_totals(by_query.transpose(1, 2).double())


@dataclass(frozen=True, eq=False)
class KeyFix:
    """Estimates for the keys of a layer: one position alone, and all together."""

    layer: int
    kv: int
    scores: Float[Tensor, "prompt head dst src"]  # of the base run
    moved: Float[Tensor, "prompt head dst src"]  # base queries on source keys
    spans: Bool[Tensor, "prompt span src"] | None = None

    @property
    def place(self) -> Place:
        return ("k", self.layer)

    @property
    def needs(self) -> Place:
        return ("pattern", self.layer)

    def table(self, slope: Tensor) -> Tensor:
        alone = key_effects(self.scores, self.moved, slope).sum(2)  # [prompt, head, src]
        sets = [] if self.spans is None else self.spans.flip(1).unbind(1)
        moved = [torch.where(keys[:, None, None], self.moved, self.scores) for keys in sets]
        together = [self._together(each, slope) for each in (*moved, self.moved)]
        both = torch.cat((alone, *together), -1).unflatten(1, (self.kv, -1)).sum(2)  # [prompt, kv, src + ...]
        return with_totals(both.transpose(1, 2).double(), dims=(2,))

    def _together(self, moved: Tensor, slope: Tensor) -> Float[Tensor, "prompt head 1"]:
        change = moved.softmax(-1) - self.scores.softmax(-1)
        return (change * slope).sum((2, 3))[..., None]


def key_effects(
    scores: Float[Tensor, "*row src"], moved: Float[Tensor, "*row src"], slope: Float[Tensor, "*row src"]
) -> Float[Tensor, "*row src"]:
    """Σ_src' Δpattern · slope of each row when the score of one key alone becomes `moved`, by key."""
    logit, others = _against_others(scores, slope)
    pattern, delta = scores.softmax(-1), moved - scores
    delta = delta.masked_fill(torch.isinf(scores), 0.0)  # hidden keys: -inf in both
    after = torch.sigmoid(logit + delta)
    effect = (after - pattern) * slope + (pattern - after) * others
    return torch.where((delta == 0) | torch.isinf(logit), 0.0, effect)


def _against_others(scores: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Of every key: the logit of its weight, and the mean slope of the other keys by their weights.

    For all keys but the heaviest, 1 - p is at least a half and can be divided by. The heaviest is left out
    of a softmax of its own, so that its rivals are resolved even when its weight rounds to 1.
    """
    pattern, heaviest = scores.softmax(-1), scores.argmax(-1, keepdim=True)
    total = (pattern * slope).sum(-1, keepdim=True)
    left = (1 - pattern).clamp(min=torch.finfo(pattern.dtype).tiny)
    others = (total - pattern * slope) / left
    logit = scores.log_softmax(-1) - torch.log(left)
    rivals = scores.scatter(-1, heaviest, -torch.inf)
    lone = torch.isinf(rivals).all(
        -1, keepdim=True
    )  # a row with a single key: its weight is 1, whatever its score
    rivals = rivals.masked_fill(lone, 0.0)
    mean = (rivals.softmax(-1) * slope).sum(-1, keepdim=True)
    own = scores.gather(-1, heaviest) - rivals.logsumexp(-1, keepdim=True)
    own = own.masked_fill(lone, torch.inf)
    return logit.scatter(-1, heaviest, own), others.scatter(-1, heaviest, mean)


def fixes(
    scoring: Scoring,
    sites: set[str],
    base: dict[str, Tensor],
    source: dict[str, Tensor],
    spans: Tensor | None = None,
) -> list[QueryFix | KeyFix]:
    """The terms of one layer for the sites asked, from q, k (both runs) and the base pattern."""
    scoring.check(base["q"], base["k"], base["pattern"])
    scores = scoring.scores(base["q"], base["k"])
    terms: list[QueryFix | KeyFix] = []
    if "q" in sites:
        change = scoring.scores(source["q"], base["k"]).softmax(-1) - scores.softmax(-1)
        terms.append(QueryFix(scoring.layer, change))
    if "k" in sites:
        moved = scoring.scores(base["q"], source["k"])
        terms.append(KeyFix(scoring.layer, base["k"].shape[2], scores, moved, spans))
    return terms


class Gates:
    """Gates on what every layer writes; one layer's can be shut, and then no gradient passes it."""

    def __init__(self, facts: Anatomy) -> None:
        self.shut: int | None = None
        sites = ["attn_out"] if facts.attn_only else ["attn_out", "mlp_out"]
        self.by_place = {(site, n): self._gate(n) for n in range(facts.n_layers) for site in sites}

    def _gate(self, layer: int) -> Callable[[Tensor], Tensor]:
        return lambda tensor: _Gate.apply(tensor, self, layer)  # type: ignore[no-any-return]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gates: Gates, layer: int) -> Tensor:
        ctx.gates, ctx.layer = gates, layer
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = slopes
        return torch.zeros_like(slope) if ctx.gates.shut == ctx.layer else slope, None, None


def paths_left(site: str, n_layers: int) -> int:
    """The number of layers that can be dropped without cutting the site off."""
    return n_layers if site.startswith("resid") else n_layers - 1
