"""Directions from prompts.

1. Activations of the positive and the negative prompts at the places (`interp.activations`).
2. An estimator (`estimators`) gives the vector of each place. Its length is set to the gap between the class
   means along it: adding it once moves the mean of the negative class to that of the positive one, along it.
3. The same estimator on shuffled labels (for paired methods, pairs turned round at random) gives the control.

`class_means` (style vectors, Konen et al. 2024, 2402.01618): the mean of a class minus that of all others.
`kmeans`: the centres of clusters of activations minus their common mean.

Sign: adding the direction goes from negative to positive. Cost: one forward pass of each prompt as far as the
last place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._activations import activations
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.positions import AnyPositions, weights
from interp.probes.selectors import require_pairs
from interp.prompts import read
from interp.steering import estimators
from interp.steering._direction import Direction
from interp.steering.estimators import cluster_centres, dealt, shuffle

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
    pos: AnyPositions = "last",
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
        require_pairs(len(up), len(down))
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


def class_means(
    model: Model,
    classes: Mapping[str, Any],
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, Direction]:
    """For each class, its mean activation minus the mean of the other classes' means, by place.

    With two classes these are the mean difference and its negative. Each direction carries that of shuffled
    labels (see `dealt`), drawn by `seed`. Cost: a forward pass of each prompt as far as the last layer.
    Raises ValueError, before it, for fewer than two classes, an empty one, a position outside a prompt.
    """
    if len(classes) < 2:
        raise ValueError(f"class_means needs two classes or more, got {len(classes)}.")
    wanted = places(anatomy(model), layer, site, head)
    data = {name: read(model, prompts, what=f"class {name!r}") for name, prompts in classes.items()}
    for prompts in data.values():
        weights(pos, prompts)
    rows = {n: activations(model, p, wanted, pos, batch_size=batch_size) for n, p in data.items()}
    labels = [name for name, found in rows.items() for _ in range(len(found[wanted[0]]))]
    drawn = dealt(labels, torch.Generator().manual_seed(seed))
    every = {w: torch.cat([found[w].flatten(1) for found in rows.values()]) for w in wanted}
    true, shuffled = ({w: _differences(every[w], each) for w in wanted} for each in (labels, drawn))
    return {
        name: Direction(
            vectors={w: true[w][name] for w in wanted},
            shuffled={w: shuffled[w][name] for w in wanted},
            model=anatomy(model).name,
            method=f"class_means: {name}",
            positions=pos if isinstance(pos, str) else repr(pos),
            norms={w: rows[name][w].flatten(1).double().norm(dim=1).median().item() for w in wanted},
            data=data[name].data_hash(),
            seed=seed,
        )
        for name in classes
    }


def _differences(rows: Float[Tensor, "row d"], labels: Sequence[str]) -> dict[str, Float[Tensor, "d"]]:
    """Mean of the rows of each class − mean of the other classes' means; summed in float64."""
    means = {
        name: rows[torch.tensor([each == name for each in labels], device=rows.device)].double().mean(0)
        for name in dict.fromkeys(labels)
    }
    total = torch.stack(list(means.values())).sum(0)
    return {name: (mean - (total - mean) / (len(means) - 1)).to(rows.dtype) for name, mean in means.items()}


def kmeans(
    model: Model,
    prompts: Any,
    k: int,
    *,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[tuple[Direction, ...], Int[Tensor, "row"]]:
    """k directions without labels, the largest cluster first, and the cluster of every activation."""
    (where,) = places(anatomy(model), layer, site)
    data = read(model, prompts)
    rows = activations(model, data, [where], pos, batch_size=batch_size)[where].flatten(1)
    centres, cluster = cluster_centres(rows, k, seed)
    made = Direction(
        {where: rows[0]},
        model=anatomy(model).name,
        norms={where: rows.double().norm(dim=1).median().item()},
        data=data.data_hash(),
        positions=str(pos),
        seed=seed,
    )
    middle = rows.double().mean(0)
    vectors = [(centre - middle).to(rows.dtype) for centre in centres]
    named = [replace(made, vectors={where: v}, method=f"kmeans {i} of {k}") for i, v in enumerate(vectors)]
    return tuple(named), cluster
