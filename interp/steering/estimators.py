"""Directions from two sets of activations: pure functions, [n, d] and [m, d] to [d].

Sign: from the negative class to the positive one. Scale: `mean_difference` and `weighted_mean` have the gap
between the class means; `pca`, `lda` and `logistic` are unit vectors. All are computed in float64.

| function        | direction                                                   | source               |
|-----------------|-------------------------------------------------------------|----------------------|
| mean_difference | mean of positive − mean of negative                         | CAA, 2312.06681      |
| weighted_mean   | the same with a weight on each prompt                       |                      |
| pca             | first singular vector of paired differences, not centred    | 2310.01405           |
| lda             | (pooled covariance + ridge)⁻¹ · mean difference             | Fisher 1936          |
| logistic        | weights of a logistic probe with an L2 penalty              |                      |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._arguments import shown
from interp._verbs import verb, warn
from interp.probes.selectors import require_pairs

__all__ = ["lda", "logistic", "logistic_probe", "mean_difference", "null_cosines", "pca", "weighted_mean"]

Positive = Float[Tensor, "n d"]
Negative = Float[Tensor, "m d"]
Vector = Float[Tensor, "d"]


def __dir__() -> list[str]:
    return __all__


@verb
def mean_difference(positive: Positive, negative: Negative) -> Vector:
    """Mean of the positive activations minus mean of the negative: the direction of CAA (2312.06681).

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.estimators.mean_difference(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    return positive.double().mean(0) - negative.double().mean(0)


@verb
def weighted_mean(
    positive: Positive,
    negative: Negative,
    positive_weights: Float[Tensor, "n"] | None = None,
    negative_weights: Float[Tensor, "m"] | None = None,
) -> Vector:
    """Difference of weighted means. Weights (a judge's score, a label's probability) are 0 or more.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.estimators.weighted_mean(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    sides = ((positive, positive_weights, "positive"), (negative, negative_weights, "negative"))
    up, down = (_weighted(rows, weight, name) for rows, weight, name in sides)
    return up - down


@verb
def pca(positive: Positive, negative: Negative) -> Vector:
    """First singular vector of positive − negative, row by row (representation engineering, 2310.01405).

    The differences are not centred: centring would take out their mean, which is the direction sought. The
    sign is that of the mean difference. Unit length. Raises ValueError for sets of different size.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.estimators.pca(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    require_pairs(len(positive), len(negative))
    difference = positive.double() - negative.double()
    first = torch.linalg.svd(difference, full_matrices=False)[2][0]
    return _signed(first, positive, negative)


@verb
def lda(positive: Positive, negative: Negative, ridge: float | int = 1e-2) -> Vector:
    """Fisher's discriminant: the mean difference, divided by the pooled covariance within the classes.

    ridge: times the mean variance, added to every variance. Unit length. Separates the classes better than
    the mean difference when the noise has a shape; points less along it, so it steers less far.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.estimators.lda(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    nonnegative("ridge", ridge)
    centred = torch.cat(
        (positive.double() - positive.double().mean(0), negative.double() - negative.double().mean(0))
    )
    d, freedom = centred.shape[1], max(1, len(centred) - 2)
    variance = centred.square().sum() / freedom / d
    if float(variance) == 0.0:
        return _unit(mean_difference(positive, negative))
    covariance = centred.T @ centred / freedom + ridge * variance * torch.eye(
        d, dtype=torch.float64, device=centred.device
    )
    return _unit(torch.linalg.solve(covariance, mean_difference(positive, negative)))


@verb
def logistic(positive: Positive, negative: Negative, l2: float | int = 1e-3, steps: int = 200) -> Vector:
    """Weights of a logistic probe, by L-BFGS from zero (deterministic). Unit length.

    l2: penalty on the squared weights, in units where the activations have variance 1.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.estimators.logistic(up, down).shape)
        (8,)
    """
    _check(positive, negative)
    return _unit(logistic_probe(positive, negative, l2, steps)[0])


@verb
def logistic_probe(
    positive: Positive, negative: Negative, l2: float | int = 1e-3, steps: int = 200
) -> tuple[Vector, Float[Tensor, ""]]:
    """Weights and bias of a logistic probe on the raw activations: sigmoid(h · w + b) = P(positive).

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> weights, bias = interp.steering.estimators.logistic_probe(up, down)
        >>> tuple(weights.shape), bias.ndim
        ((8,), 0)
    """
    nonnegative("l2", l2)
    _check(positive, negative)
    rows = torch.cat((positive, negative)).double()
    label = torch.cat((torch.ones(len(positive)), torch.zeros(len(negative)))).double().to(rows.device)
    middle, scale = rows.mean(0), rows.std(0).square().mean().sqrt().clamp(min=1e-12)
    rows = (rows - middle) / scale
    with torch.inference_mode(False), torch.enable_grad():
        rows, label = rows.detach().clone(), label.clone()
        w = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device, requires_grad=True)
        b = torch.zeros((), dtype=torch.float64, device=rows.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([w, b], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(rows @ w + b, label) + l2 * (w @ w)
            value.backward()
            return value

        optimiser.step(loss)
    w, b = w.detach() / scale, b.detach()
    return w, b - middle @ w


def _check(positive: Tensor, negative: Tensor) -> None:
    for name, rows in (("positive", positive), ("negative", negative)):
        if not len(rows):
            raise ValueError(f"the {name} class is empty. Give at least one prompt of each class.")
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"the classes have widths {positive.shape[1]} and {negative.shape[1]}; take both from one place."
        )


def _weighted(rows: Tensor, weight: Tensor | None, name: str) -> Tensor:
    if weight is None:
        return rows.double().mean(0)
    if len(weight) != len(rows):
        raise ValueError(f"{len(weight)} {name} weights are given for {len(rows)} prompts. Give each one.")
    weight = weight.to(rows.device, torch.float64)
    if bool((weight < 0).any()) or float(weight.sum()) <= 0 or not bool(torch.isfinite(weight).all()):
        raise ValueError(f"the {name} weights must be finite, 0 or more, and not all 0.")
    return (weight[:, None] * rows.double()).sum(0) / weight.sum()


def _signed(vector: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    along = mean_difference(positive, negative) @ vector
    return -vector if float(along) < 0 else vector


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1e-30)


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


def within_classes(n: int, generator: torch.Generator) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function that makes pairs of rows of one class: what differs where nothing should.

    Turning pairs round or tearing them apart leaves the principal axis of their differences where it is.
    """
    orders = [torch.randperm(n, generator=generator) for _ in range(2)]

    def apply(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        sides = [rows[order.to(rows.device)] for rows, order in zip((positive, negative), orders)]
        half = (n + 1) // 2 + 1  # rows of each class, in a chain of pairs
        first = torch.cat([rows[:half][:-1] for rows in sides])
        return first, torch.cat([rows[:half][1:] for rows in sides])

    return apply


def nonnegative(name: str, value: float | int) -> None:
    """ValueError unless a penalty is a finite number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value!r}; it must be a finite number, 0 or more.")


def dealt(labels: Sequence[str], generator: torch.Generator) -> list[str] | None:
    """Shuffled labels of which every class gets its share of the rows of every class.

    Labels drawn freely would by chance go with the old ones, and the control would be a weak treatment. None,
    with a warning, where each class has one row: shuffled labels would give the same directions again.
    """
    if len(set(labels)) == len(labels):
        warn(
            f"labels of {len(labels)} classes with one row each cannot be shuffled, so the directions have "
            "no such control. Give two prompts or more of a class."
        )
        return None
    order = {name: i for i, name in enumerate(dict.fromkeys(labels))}
    rows: list[int] = torch.randperm(len(labels), generator=generator).tolist()
    rows.sort(key=lambda i: order[labels[i]])  # stable: random within a class
    deck = []
    for name in order:
        n = labels.count(name)
        at = (torch.arange(n) + torch.rand(n, generator=generator)) / n
        deck += [(where, name) for where in at.tolist()]
    found = dict(zip(rows, (name for _, name in sorted(deck))))
    return [found[i] for i in range(len(labels))]


@verb
def null_cosines(
    positive: Float[Tensor, "n d"],
    negative: Float[Tensor, "m d"],
    estimator: Callable[[Tensor, Tensor], Tensor] = mean_difference,
    *,
    n_draws: int = 200,
    paired: bool = False,
    seed: int = 0,
) -> Float[Tensor, "draw"]:
    """Cosines of the direction with those of shuffled labels: what chance gives on these activations.

    Their spread is not 1/√d: activations vary along few directions. Pure; no forward pass. For `pca`, which
    does not see a pair turned round, the draws are differences of rows of one class.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> tuple(interp.steering.extract.null_cosines(up, down, n_draws=5).shape)
        (5,)
    """
    generator = torch.Generator().manual_seed(seed)
    n, m = len(positive), len(negative)
    if max(n, m) < 2 or (estimator is pca and n < 2):
        raise ValueError(
            f"labels of {n} and {m} rows cannot be shuffled: every draw would be the direction or its "
            "negative. Give two rows or more of a class."
        )
    true = estimate(estimator, positive, negative).double()
    cosines = []
    for _ in range(n_draws):
        of_pca = estimator is pca
        deal = within_classes(n, generator) if of_pca else shuffle(n, m, paired, generator)
        drawn = estimate(estimator, *deal(positive, negative)).double()
        cosines.append(torch.cosine_similarity(true, drawn, dim=0))
    return torch.stack(cosines)


def estimate(estimator: Any, positive: Tensor, negative: Tensor) -> Tensor:
    """What an estimator makes of two classes. ValueError for what is not a finite vector [d]."""
    vector = estimator(positive, negative)
    if not isinstance(vector, Tensor) or vector.shape != positive.shape[1:]:
        raise ValueError(
            f"estimator gave {shown(vector)} for rows of width {positive.shape[1]}; give a tensor [d]."
        )
    return vector


def cluster_centres(
    rows: Float[Tensor, "n d"], k: int, seed: int = 0, steps: int = 100
) -> tuple[Float[Tensor, "k d"], Int[Tensor, "n"]]:
    """Lloyd's algorithm from k-means++ seeds: centres (largest cluster first) and the cluster of each row.

    Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= len(rows):
        raise ValueError(f"k is {k}; it must be 1 to the number of rows, {len(rows)}.")
    points = rows.double()
    centres = _seeds(points, k, torch.Generator().manual_seed(seed))
    for _ in range(steps):
        cluster = torch.cdist(points, centres).argmin(1)
        members = torch.nn.functional.one_hot(cluster, k).double()  # [n, k]
        count = members.sum(0)[:, None]
        moved = torch.where(count > 0, members.T @ points / count.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    cluster = torch.cdist(points, centres).argmin(1)
    order = torch.bincount(cluster, minlength=k).argsort(descending=True, stable=True)
    return centres[order], order.argsort()[cluster]


def _seeds(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next seed is drawn in proportion to its squared distance from the others."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    for _ in range(k - 1):
        distance = torch.cdist(points, points[chosen]).amin(1).square().cpu()
        weight = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        chosen.append(int(torch.multinomial(weight, 1, generator=generator)))
    return points[chosen]


def at_gap(vector: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The vector at the length of the gap between the class means along it, in their dtype."""
    unit = vector.double() / vector.double().norm().clamp(min=1e-30)
    gap = (positive.double().mean(0) - negative.double().mean(0)) @ unit
    return (unit * gap).to(positive.dtype)
