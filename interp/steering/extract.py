"""Directions from prompts.

1. Activations of the positive and the negative prompts at the places (`interp.activations`).
2. An estimator (`estimators`) gives the vector of each place. Its length is set to the gap between the class
   means along it: adding it once moves the mean of the negative class to that of the positive one, along it.
3. The same estimator on shuffled labels gives the control: rows dealt anew to the classes or, with `paired`,
   half of the pairs turned round. `pca` does not see a pair turned round; its control takes the differences
   of prompts of one class. One prompt a class cannot be shuffled, and gives no control.

All extractors take the same options:

| option     | what it says                                                                           |
|------------|----------------------------------------------------------------------------------------|
| layer      | one, several, or None for all; negative ones count from the last                       |
| site, head | where activations are read; a head for sites with heads                                |
| pos        | which positions of each prompt are averaged (see `interp.positions`)                   |
| paired     | row i of both classes belong together, as many of each; decides how labels are shuffled |
| mask       | 1 where a token is real, for padded ids: a pair (positive, negative)                   |
| seed       | of the shuffled labels                                                                 |
| batch_size | prompts at once, None: 32                                                              |
| engine     | as in `interp.activations`: "auto", "fast" or "reference"                              |

They raise ValueError, before any pass, for an empty class, unpaired lists of different length, a place that
the model does not have, a position outside a prompt, padding without a mask; and where the classes do not
differ.

`class_means` and `kmeans` make directions of several classes, and without labels.

Sign: adding the direction goes from negative to positive. Cost: one forward pass of each prompt as far as the
last place. The model is left as found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations, engine_for
from interp._verbs import verb, warn
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions, weights
from interp.probes.selectors import require_pairs
from interp.prompts import Mask, Prompts, read_classes
from interp.steering import estimators
from interp.steering._classes import class_means as class_means
from interp.steering._classes import kmeans as kmeans
from interp.steering._classes import without_rounding
from interp.steering._direction import Direction, found_on
from interp.steering.estimators import at_gap, estimate, shuffle, within_classes
from interp.steering.estimators import null_cosines as null_cosines

__all__ = [
    "class_means", "extract", "kmeans", "lda", "logistic", "mean_difference", "null_cosines", "pca",
    "weighted_mean",
]  # fmt: skip

Estimator = Callable[[Tensor, Tensor], Tensor]
Rows = Mapping[Place, Tensor]


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True, eq=False)
class Extraction:
    """The options that all extractors share: what is read of which prompts, and how labels are shuffled."""

    layer: Layers = None
    site: str = "resid_pre"
    head: int | None = None
    pos: AnyPositions = "last"
    paired: bool = False
    mask: Mask = None
    seed: int = 0
    batch_size: int | None = None
    engine: str = "auto"

    def places(self, model: Model) -> tuple[Place, ...]:
        """Where activations are read."""
        return vector_places(anatomy(model), self.layer, self.site, self.head)

    def rows(self, model: Model, *sides: Prompts) -> list[dict[Place, Tensor]]:
        """Activations [row, ...] of several sets of prompts at every place."""
        wanted = self.places(model)
        options: dict[str, Any] = {"batch_size": self.batch_size}
        options["engine"] = engine_for(model, sides, wanted, self.engine)
        return [activations(model, prompts, wanted, self.pos, **options) for prompts in sides]

    def shuffler(self, estimator: Estimator, n: int, m: int) -> Callable[[Tensor, Tensor], Any] | None:
        """What gives both classes shuffled labels; None where prompts are too few to have any."""
        generator = torch.Generator().manual_seed(self.seed)
        if max(n, m) < 2 or (estimator is estimators.pca and n < 2):
            return None
        if estimator is estimators.pca:
            return within_classes(n, generator)
        return shuffle(n, m, self.paired, generator, balanced=True)


@verb
def mean_difference(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    paired: bool = False,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """Mean activation of the positive prompts minus that of the negative (CAA, 2312.06681).

    positive, negative: strings, token ids [prompt, pos], chat messages or a Task each. The options are those
    of the module: see `steering.extract`. Cost: one forward pass of each prompt as far as the last place.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> str(d.place), tuple(d.vector.shape)
        ('L1.resid_pre', (64,))
    """
    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    return between_classes(model, positive, negative, estimators.mean_difference, "mean_difference", how)


@verb
def pca(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    paired: bool = False,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """First principal direction of the differences of pairs, not centred (RepE, 2310.01405).

    Row i of `positive` is always compared with row i of `negative`; options as in `steering.extract`. Warns
    where the differences of pairs cancel along it, as with pairs in random order: its sign is then chance's.
    Cost: one forward pass of each prompt as far as the last place.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> interp.steering.pca(model, task.clean[:4], task.clean[4:], layer=2).method
        'pca'
    """
    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    return between_classes(model, positive, negative, estimators.pca, "pca", how, pairs=True)


@verb
def lda(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    ridge: float | int = 1e-2,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    paired: bool = False,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """Fisher's discriminant; `ridge` as in `estimators.lda`, the other options as in `steering.extract`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> interp.steering.lda(model, task.clean[:4], task.clean[4:], layer=2, ridge=0.1).method
        'lda'
    """
    estimators.nonnegative("ridge", ridge)

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.lda(up, down, ridge)

    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    return between_classes(model, positive, negative, fit, "lda", how)


@verb
def logistic(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    l2: float | int = 1e-3,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    paired: bool = False,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """Normal of a logistic probe; `l2` as in `estimators.logistic`, other options as in `steering.extract`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> interp.steering.logistic(model, task.clean[:4], task.clean[4:], layer=2).method
        'logistic'
    """
    estimators.nonnegative("l2", l2)

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.logistic(up, down, l2)

    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    return between_classes(model, positive, negative, fit, "logistic", how)


@verb
def weighted_mean(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    positive_weights: Float[Tensor, "n"] | None = None,
    negative_weights: Float[Tensor, "m"] | None = None,
    layer: Layers = None,
    site: str = "resid_pre",
    head: int | None = None,
    pos: AnyPositions = "last",
    paired: bool = False,
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """Difference of weighted means, with a weight on each prompt; options as in `steering.extract`.

    The control draws the labels anew and leaves the weights out.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> import torch
        >>> sure = torch.linspace(0.1, 1.0, 4)
        >>> d = interp.steering.extract.weighted_mean(
        ...     model, task.clean[:4], task.clean[4:], positive_weights=sure, layer=2)
        >>> d.method
        'weighted_mean'
    """

    def fit(up: Tensor, down: Tensor) -> Tensor:
        return estimators.weighted_mean(up, down, positive_weights, negative_weights)

    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    return between_classes(
        model, positive, negative, fit, "weighted_mean", how, null=estimators.mean_difference
    )


@verb
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
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "auto",
) -> Direction:
    """A direction by an estimator of yours, ([n, d], [m, d]) -> [d]; options as in `steering.extract`.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> medians = lambda up, down: up.median(0).values - down.median(0).values
        >>> d = interp.steering.extract.extract(model, task.clean[:4], task.clean[4:], medians, layer=2)
        >>> tuple(d.vector.shape)
        (64,)
    """
    how = Extraction(layer, site, head, pos, paired, mask, seed, batch_size, engine)
    name = getattr(estimator, "__name__", "custom")
    return between_classes(model, positive, negative, estimator, name, how)


def between_classes(
    model: Model,
    positive: Any,
    negative: Any,
    estimator: Estimator,
    method: str,
    how: Extraction,
    *,
    null: Estimator | None = None,
    pairs: bool = False,
) -> Direction:
    """The direction of an estimator, and that of the same (or `null`) on shuffled labels."""
    wanted = how.places(model)
    up, down = read_classes(model, positive, negative, how.mask)
    if how.paired or pairs:
        require_pairs(len(up), len(down))
    for prompts in (up, down):
        weights(how.pos, prompts)
    above, below = (
        {where: rows.flatten(1) for where, rows in found.items()} for found in how.rows(model, up, down)
    )
    pairs_of = {where: (above[where], below[where]) for where in wanted}
    true = {where: at_gap(estimate(estimator, *rows), *rows) for where, rows in pairs_of.items()}
    norms = {where: _median_norm(above[where], below[where]) for where in wanted}
    vectors = without_rounding(true, norms, method)
    _require_order(vectors, above, below, method)
    shuffler = how.shuffler(estimator, len(above[wanted[0]]), len(below[wanted[0]]))
    drawn = {} if shuffler is None else {where: shuffler(*rows) for where, rows in pairs_of.items()}
    shuffled = {where: at_gap(estimate(null or estimator, *rows), *rows) for where, rows in drawn.items()}
    if shuffler is None:
        warn(
            f"{method}: labels of {len(up)} and {len(down)} prompts cannot be shuffled, so the direction has "
            "no such control. Give two prompts or more of a class."
        )
    return Direction(
        vectors=vectors,
        shuffled=shuffled,
        method=method,
        positions=how.pos if isinstance(how.pos, str) else repr(how.pos),
        norms=norms,
        means={where: _means(vectors[where], above[where], below[where]) for where in wanted},
        data=hashlib.sha256(f"{up.data_hash()}{down.data_hash()}".encode()).hexdigest(),
        seed=how.seed,
        **found_on(model),
    )


def _require_order(vectors: Rows, above: Rows, below: Rows, method: str) -> None:
    """Warn where the differences of pairs cancel along a principal direction."""
    if method != "pca":
        return
    for where in (each for each, vector in vectors.items() if bool(vector.any())):
        unit = vectors[where].double() / vectors[where].double().norm()
        along = (above[where].double() - below[where].double()) @ unit
        if len(along) > 2 and abs(float(along.mean())) < 0.1 * float(along.square().mean().sqrt()):
            warn(
                f"pca: the differences of pairs cancel along the direction at {where} (mean "
                f"{along.mean():.2g} of {along.square().mean().sqrt():.2g}), so its sign and length are "
                "chance. Give pairs in one order."
            )


def _median_norm(positive: Tensor, negative: Tensor) -> float:
    return torch.cat((positive, negative)).flatten(1).double().norm(dim=1).median().item()


def _means(vector: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, float]:
    unit = vector.double() / vector.double().norm().clamp(min=1e-30)
    up, down = (rows.flatten(1).double().mean(0) @ unit for rows in (positive, negative))
    return up.item(), down.item()
