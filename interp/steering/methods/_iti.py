"""Inference-time intervention, ITI (2306.03341): shift the heads in which a probe can read the difference.

1. Read z of every head (before W_O) at one position of each prompt of two classes.
2. Fit a logistic probe for each head on one part of the prompts; its balanced accuracy on the rest ranks
   heads.
3. Shift the best K heads: z + alpha sigma theta, where theta is the unit vector of the mean difference
   ("mass mean") or the probe's normal, and sigma the standard deviation of the activations along it.

Sign: theta goes from the negative class to the positive one. alpha counts standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.probes import splits
from interp.probes.selectors import require_pairs
from interp.probes.splits import Groups
from interp.prompts import read
from interp.steering import estimators
from interp.steering._direction import Direction, found_on
from interp.steering.edits import AnyGate, Made, Number, add

FITS = ("mass_mean", "probe")


@dataclass(frozen=True, eq=False)
class HeadShifts:
    """What was found of every head: accuracy of its probe on held-out prompts, theta (unit), sigma."""

    accuracy: Float[Tensor, "layer head"]
    theta: Float[Tensor, "layer head d_head"]
    sigma: Float[Tensor, "layer head"]
    layers: tuple[int, ...]
    model: str | None = None
    weights: tuple[float, ...] = field(default=(), repr=False)  # as of a Direction
    __repr__ = brief

    def top(self, k: int) -> tuple[Place, ...]:
        """The k heads with the largest accuracy, best first; of equals, the earlier one."""
        n = self.accuracy.numel()
        if not 1 <= k <= n:
            raise ValueError(f"k is {k}; there are {n} heads.")
        order = self.accuracy.flatten().argsort(descending=True, stable=True)[:k].tolist()
        width = self.accuracy.shape[1]
        return tuple(Place("z", self.layers[each // width], head=each % width) for each in order)

    def direction(self, k: int) -> Direction:
        """sigma theta at the best k heads, as a Direction with a place for each."""
        vectors = {where: self._vector(where) for where in self.top(k)}
        return Direction(vectors, model=self.model, weights=self.weights, method="iti")

    def shift(self, k: int, alpha: Number, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """z + alpha sigma theta at the best k heads."""
        return add(self.direction(k), alpha, when=when, gate=gate)

    def _vector(self, where: Place) -> Tensor:
        at = self.layers.index(where.layer), where.head
        return self.sigma[at] * self.theta[at]


@verb
def head_shifts(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    pos: AnyPositions = "last",
    fit: str = "mass_mean",
    share: float = 0.8,
    paired: bool = False,
    groups: Groups | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> HeadShifts:
    """Probe every head on two classes of prompts.

    share: of the prompts on which probes are fitted; accuracy is that on the rest. paired: row i of both
    classes belong together (two answers to one question) and fall on the same side of the split;
    groups: (positive, negative) labels of prompts that do; equal prompts always do. fit: "mass_mean" or
    "probe".

    Raises ValueError, before any pass, for a layer that the model does not have, an empty class, classes too
    small to split, unpaired classes. Cost: one forward pass of each prompt as far as the last layer, and a
    probe of d_head weights a head. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> shifts = methods.head_shifts(model, up, down)
        >>> len(shifts.shift(2, 5.0))
        2
    """
    facts = anatomy(model)
    wanted = places(facts, layer, "z")
    _check_fit(fit)
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    _check_split(len(up), len(down), share, paired)
    above, below = (activations(model, p, wanted, pos, batch_size=batch_size) for p in (up, down))
    sides = (torch.stack([rows[where] for where in wanted], 1) for rows in (above, below))
    options: dict[str, Any] = {"fit": fit, "share": share, "paired": paired, "seed": seed}
    found = fit_heads(*sides, **options, units=splits.units(up, down, groups))
    return HeadShifts(*found, tuple(int(where.layer or 0) for where in wanted), **found_on(model))


@verb
def fit_heads(
    positive: Float[Tensor, "n layer head d_head"],
    negative: Float[Tensor, "m layer head d_head"],
    *,
    fit: str = "mass_mean",
    share: float = 0.8,
    paired: bool = False,
    seed: int = 0,
    units: Int[Tensor, "prompt"] | None = None,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head d_head"], Float[Tensor, "layer head"]]:
    """Accuracy, theta and sigma of every head, from its activations. Pure; see `head_shifts`.

    units: of each row, the positive ones first; rows of one unit stay together (`interp.probes.splits`).

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> rows = torch.randn(2, 12, 2, 3, 4, generator=torch.Generator().manual_seed(0))
        >>> accuracy, theta, sigma = methods.fit_heads(*rows)
        >>> tuple(theta.shape)
        (2, 3, 4)
    """
    _check_fit(fit)
    _check_split(len(positive), len(negative), share, paired)
    generator = torch.Generator().manual_seed(seed)
    sizes = (len(positive), len(negative))
    if units is not None and len(units) != sum(sizes):
        raise ValueError(f"units has {len(units)} entries for {sizes[0]} + {sizes[1]} rows; give one a row.")
    if units is None or len(units.unique()) == len(units):
        (up, up_rest), (down, down_rest) = _split(*sizes, share, paired, generator)
    else:
        (up, up_rest), (down, down_rest) = _split_units(units, sizes, share, paired, generator)
    shape = positive.shape[1:3]
    found = []
    for layer, head in torch.cartesian_prod(*map(torch.arange, shape)).tolist():
        one, two = positive[:, layer, head], negative[:, layer, head]
        w, b = estimators.logistic_probe(one[up], two[down])
        sides = one[up_rest].double() @ w + b, -(two[down_rest].double() @ w + b)
        right = [(side.sign() + 1).mean() / 2 for side in sides]  # a logit of 0 is half right
        vector = w if fit == "probe" else estimators.mean_difference(one, two)
        theta = vector / vector.norm().clamp(min=1e-30)
        along = torch.cat((one, two)).double() @ theta
        found.append(((right[0] + right[1]) / 2, theta, along.std()))
    accuracy, theta, sigma = (torch.stack(list(part)) for part in zip(*found))
    return accuracy.view(shape), theta.view(*shape, -1).to(positive), sigma.view(shape).to(positive)


Split = tuple[Tensor, Tensor]  # rows to fit on, and the rest


def _split(n: int, m: int, share: float, paired: bool, generator: torch.Generator) -> tuple[Split, Split]:
    order = torch.randperm(n, generator=generator)
    other = order if paired else torch.randperm(m, generator=generator)
    cuts = _cut(n, share), _cut(m, share)
    return (order[: cuts[0]], order[cuts[0] :]), (other[: cuts[1]], other[cuts[1] :])


def _split_units(
    units: Tensor, sizes: tuple[int, int], share: float, paired: bool, generator: torch.Generator
) -> list[Split]:
    """Whole units on either side of the split; of pairs the units of both rows."""
    if paired:
        units = splits.linked(units, torch.arange(sizes[0]).repeat(2))
    rest = splits.hold_out(units.cpu(), sizes, 1 - share, generator, least=1)
    return [((~side).nonzero().flatten(), side.nonzero().flatten()) for side in rest.split(list(sizes))]


def _cut(n: int, share: float) -> int:
    return min(n - 1, max(1, round(share * n)))


def _check_split(n: int, m: int, share: float, paired: bool) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1, for example 0.8.")
    if min(n, m) < 2:
        raise ValueError(f"the classes have {n} and {m} prompts; a split needs two or more of each.")
    if paired:
        require_pairs(n, m)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; use 'mass_mean' or 'probe'.")
