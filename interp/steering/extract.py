"""Directions from two sets of prompts.

1. Activations of the positive and the negative prompts at the places (`activations`).
2. An estimator (`estimators`) gives the vector of each place. Its length is set to the gap between the class
   means along it: adding it once moves the mean of the negative class to that of the positive one, along it.
3. The same estimator on shuffled labels (for paired methods, pairs turned round at random) gives the control.

Sign: adding the direction goes from negative to positive. Cost: one forward pass of each prompt as far as the
last place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models import Model, anatomy
from interp.steering import estimators
from interp.steering.activations import activations
from interp.steering.direction import Direction
from interp.steering.places import Layers, places
from interp.steering.prompts import read
from interp.steering.read_positions import Positions, weights

Estimator = Callable[[Tensor, Tensor], Tensor]


def mean_difference(model: Model, positive: Any, negative: Any, **options: Any) -> Direction:
    """Mean activation of the positive prompts minus that of the negative (CAA, 2312.06681). See `extract`."""
    return extract(model, positive, negative, estimators.mean_difference, **options)


def pca(model: Model, positive: Any, negative: Any, **options: Any) -> Direction:
    """First principal direction of paired differences, not centred (2310.01405). See `extract`."""
    return extract(model, positive, negative, estimators.pca, paired=True, **options)


def lda(
    model: Model, positive: Any, negative: Any, *, ridge: float | int = 1e-2, **options: Any
) -> Direction:
    """Fisher's discriminant; `ridge` as in `estimators.lda`. See `extract`."""

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.lda(up, down, ridge)

    return extract(model, positive, negative, fit, method="lda", **options)


def logistic(
    model: Model, positive: Any, negative: Any, *, l2: float | int = 1e-3, **options: Any
) -> Direction:
    """Normal of a logistic probe; `l2` as in `estimators.logistic`. See `extract`."""

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.logistic(up, down, l2)

    return extract(model, positive, negative, fit, method="logistic", **options)


def weighted_mean(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    positive_weights: Float[Tensor, "n"] | None = None,
    negative_weights: Float[Tensor, "m"] | None = None,
    **options: Any,
) -> Direction:
    """Difference of weighted means, with a weight on each prompt. See `extract`.

    The control draws the labels anew and leaves the weights out.
    """

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.weighted_mean(up, down, positive_weights, negative_weights)

    return extract(
        model, positive, negative, fit, method="weighted_mean", null=estimators.mean_difference, **options
    )


def extract(
    model: Model,
    positive: Any,
    negative: Any,
    estimator: Estimator,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: Positions = "last",
    paired: bool = False,
    method: str | None = None,
    null: Estimator | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> Direction:
    """A direction from `negative` to `positive`: strings, token ids or a Task each (see `prompts.read`).

    layer: one, several, or None for all. head: for sites with heads. pos: where each prompt is read.
    estimator: ([n, d], [m, d]) -> [d]. seed: of the shuffled labels of the control.

    Raises ValueError for an empty class, unpaired lists of different length, a place that the model does not
    have, a position outside a prompt. The model is left as found.
    """
    wanted = places(anatomy(model), layer, site, head)
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    if paired:
        estimators.require_pairs(len(up), len(down))
    for prompts in (up, down):
        weights(pos, prompts)
    above, below = (activations(model, prompts, wanted, pos, batch_size=batch_size) for prompts in (up, down))
    generator = torch.Generator().manual_seed(seed)
    flips = shuffle(len(above[wanted[0]]), len(below[wanted[0]]), paired, generator, balanced=True)
    name = method or getattr(estimator, "__name__", "custom")
    vectors, shuffled = {}, {}
    for where in wanted:
        one, two = above[where].flatten(1), below[where].flatten(1)
        vectors[where] = at_gap(estimator(one, two), one, two)
        shuffled[where] = at_gap((null or estimator)(*flips(one, two)), *flips(one, two))
    return Direction(
        vectors=vectors,
        shuffled=shuffled,
        model=anatomy(model).name,
        method=name,
        positions=pos if isinstance(pos, str) else repr(pos),
        norms={w: _median_norm(above[w], below[w]) for w in wanted},
        means={w: _means(vectors[w], above[w], below[w]) for w in wanted},
        data=hashlib.sha256(f"{up.data_hash()}{down.data_hash()}".encode()).hexdigest(),
        seed=seed,
    )


def at_gap(vector: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The vector at the length of the gap between the class means along it, in their dtype."""
    unit = vector.double() / vector.double().norm().clamp(min=1e-30)
    gap = (positive.double().mean(0) - negative.double().mean(0)) @ unit
    return (unit * gap).to(positive.dtype)


def shuffle(
    n: int, m: int, paired: bool, generator: torch.Generator, *, balanced: bool = False
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function that gives both classes shuffled labels; pairs are turned round, not torn apart.

    balanced: the new labels are uncorrelated with the old ones, as nearly as the counts allow. A draw that is
    not may give the old labels again where prompts are few.
    """
    turned = torch.rand(n, generator=generator) < 0.5
    order = torch.randperm(n + m, generator=generator)
    if balanced:
        turned = torch.randperm(n, generator=generator) < (n + 1) // 2
        kept = min(n - 1, max(1, round(n * n / (n + m)))) if n > 1 and m > 1 else n - 1
        ups, downs = torch.randperm(n, generator=generator), n + torch.randperm(m, generator=generator)
        order = torch.cat((ups[:kept], downs[: n - kept], ups[kept:], downs[n - kept :]))

    def apply(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        if paired:
            flip = turned.to(positive.device)[:, None]
            return torch.where(flip, negative, positive), torch.where(flip, positive, negative)
        rows = torch.cat((positive, negative))[order.to(positive.device)]
        return rows[:n], rows[n:]

    return apply


def _median_norm(positive: Tensor, negative: Tensor) -> float:
    return torch.cat((positive, negative)).flatten(1).double().norm(dim=1).median().item()


def _means(vector: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, float]:
    unit = vector.double() / vector.double().norm().clamp(min=1e-30)
    up, down = (rows.flatten(1).double().mean(0) @ unit for rows in (positive, negative))
    return up.item(), down.item()


def null_cosines(
    positive: Float[Tensor, "n d"],
    negative: Float[Tensor, "m d"],
    estimator: Estimator = estimators.mean_difference,
    *,
    n_draws: int = 200,
    paired: bool = False,
    seed: int = 0,
) -> Float[Tensor, "draw"]:
    """Cosines of the direction with those of shuffled labels: what chance gives on these activations.

    Their spread is not 1/√d: activations vary along few directions. Pure; no forward pass.
    """
    generator = torch.Generator().manual_seed(seed)
    true = estimator(positive, negative).double()
    found = []
    for _ in range(n_draws):
        drawn = estimator(
            *shuffle(len(positive), len(negative), paired, generator)(positive, negative)
        ).double()
        found.append(torch.cosine_similarity(true, drawn, dim=0))
    return torch.stack(found)
