"""AUSteer: scale the few single dimensions that move the same way in nearly every pair (2602.04428).

1. Read each pair of prompts (row i with row i) at the last token, at the places given.
2. Momentum of a dimension: beta = s max(#(a+ > a-), #(a+ < a-)) / n, with s = +1 where the first count is the
   larger or equal, else -1. |beta| = 1: the dimension moves the same way in every pair.
3. Of all places together take the k dimensions with the largest |beta|. Where |beta| is equal, as it is for
   many dimensions when pairs are few, the larger effect size (mean difference / its standard deviation)
   decides.
4. Steer h_i + alpha beta_i h_i. Other dimensions stay, to the bit.

Sign: beta above 0 where the positive prompts have the larger value. A factor moves a value away from 0 or
towards it: where a dimension is negative on both classes, alpha > 0 moves it away from the positive class.
`against` names the share of selected dimensions for which that is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place, width
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.probes.selectors import require_pairs
from interp.prompts import read
from interp.steering._direction import found_on
from interp.steering.edits import AnyGate, Made, Number, affine, finite


@dataclass(frozen=True, eq=False)
class Dimensions:
    """Selected dimensions by place, their beta, and the mean positive activation there."""

    index: Mapping[Place, Int[Tensor, "k"]]
    beta: Mapping[Place, Float[Tensor, "k"]]
    level: Mapping[Place, Float[Tensor, "k"]]
    widths: Mapping[Place, int]
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model they were found on
    __repr__ = brief

    def __len__(self) -> int:
        return sum(len(each) for each in self.index.values())

    @property
    def against(self) -> float:
        """Share of dimensions that alpha > 0 moves away from the positive class: negative ones."""
        return torch.cat([each < 0 for each in self.level.values()]).double().mean().item()

    def scale(self, alpha: Number, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """h_i (1 + alpha beta_i) at the selected dimensions; alpha 0 does nothing."""
        finite("alpha", alpha)
        made = []
        for where, index in self.index.items():
            factor = torch.ones(self.widths[where], dtype=torch.float64, device=index.device)
            factor[index] += alpha * self.beta[where].double()
            made += affine(where, factor, torch.zeros_like(factor), when=when, gate=gate)
        return tuple(replace(each, **self.found) for each in made)


@verb
def austeer(
    model: Model,
    positive: Any,
    negative: Any,
    sites: str | Place | Sequence[str] | Sequence[Place],
    k: int,
    *,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> Dimensions:
    """The k dimensions of all `sites` together with the largest |beta|.

    sites: "L2.mlp_out", "L2.resid_post", "L2.post" or, for the input of W_O, heads ("L2H3"). positive,
    negative: as many prompts each, in pairs. Raises ValueError, before any pass, for unpaired classes, whole
    heads, a place that the model does not have, k outside 1 to the number of dimensions. Cost: one forward
    pass of each prompt as far as the last place. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> len(methods.austeer(model, up, down, "L1.mlp_out", 5))
        5
    """
    facts = anatomy(model)
    named = [sites] if isinstance(sites, (str, Place)) else list(sites)
    wanted = list(dict.fromkeys(place(each, facts) for each in named))
    widths = {where: width(where, facts) for where in wanted}
    _check(wanted, k, sum(widths.values()))
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    require_pairs(len(up), len(down))
    above, below = (activations(model, p, wanted, pos, batch_size=batch_size) for p in (up, down))
    beta = {where: momentum(above[where], below[where]) for where in wanted}
    every = torch.cat([beta[where] for where in wanted])
    size = torch.cat([_effect(above[where], below[where]) for where in wanted])
    order = size.argsort(descending=True, stable=True)
    order = order[every[order].abs().argsort(descending=True, stable=True)][:k]
    starts = dict(zip(wanted, torch.tensor([0, *widths.values()]).cumsum(0).tolist()))
    index = {w: (order[(order >= s) & (order < s + widths[w])] - s).sort().values for w, s in starts.items()}
    index = {where: found for where, found in index.items() if len(found)}
    return Dimensions(
        index,
        {where: beta[where][found] for where, found in index.items()},
        {where: above[where].double().mean(0)[found] for where, found in index.items()},
        {where: widths[where] for where in index},
        found_on(model),
    )


@verb
def momentum(positive: Float[Tensor, "n d"], negative: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """beta of every dimension from pairs of activations. Pure. ValueError for unpaired or empty classes.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> tuple(methods.momentum(up, down).shape)
        (8,)
    """
    require_pairs(len(positive), len(negative))
    if not len(positive):
        raise ValueError("there are 0 pairs. Give at least one.")
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"the classes have widths {positive.shape[1]} and {negative.shape[1]}; take both from one place."
        )
    up = (positive > negative).sum(0).double()
    down = (positive < negative).sum(0).double()
    return torch.where(up >= down, up, -down) / len(positive)


def _effect(positive: Tensor, negative: Tensor) -> Tensor:
    """|mean| / standard deviation of the differences of pairs."""
    gap = positive.double() - negative.double()
    spread = gap.var(0, unbiased=False).sqrt()
    return gap.mean(0).abs() / (spread + 1e-12 * (1 + gap.abs().amax(0)))


def _check(wanted: list[Place], k: int, n: int) -> None:
    for where in wanted:
        if where.site in ("z", "q", "k", "v") and where.head is None:
            raise ValueError(f"{str(where)!r} has several heads; name each, as in 'L{where.layer}H0'.")
    if not wanted:
        raise ValueError("sites is empty. Name at least one place, as in 'L1.mlp_out'.")
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; the places have {n} dimensions together.")
