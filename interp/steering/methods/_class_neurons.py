"""Class-specific neurons: high on one class of texts and on no other (2605.30717, gender neurons).

For each neuron and class, on the activations of the class against those of all other classes together:

1. effect size (difference of means / root mean variance), log odds of being above 0, and relative mean
   (difference of means / |mean of the others|), negative ones set to 0.
2. Each part as a z-score over all neurons. Score: 0.45 effect size + 0.35 log odds + 0.20 relative mean.
3. A neuron belongs to a class if it is above 0 often enough there, its effect size and log odds pass a bound,
   and its score exceeds that of every other class by a margin (exclusivity). Of these the best n are taken,
   at most `per_layer` from a layer.

Turn them down with `neurons.scale(1 - f)`, up with `neurons.scale(1 + f)`; f = 1 takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import settings, verb
from interp.models import Model
from interp.models.places import Layers
from interp.positions import AnyPositions
from interp.prompts import read
from interp.steering.methods._neurons import Neurons, layer_numbers, neuron_activations

WEIGHTS = (0.45, 0.35, 0.20)
_SMALL = 1e-4


@settings
@dataclass(frozen=True)
class Bounds:
    """What a class-specific neuron must pass; the defaults are those of the authors' code.

    rate: share of activations above 0 on the class. effect, log_odds: z-scores. margin: score above that of
    the second class. per_layer: neurons of a class in one layer, at most; None for any number.
    """

    rate: float = 0.08
    effect: float = 0.5
    log_odds: float = 0.7
    margin: float = 0.4
    per_layer: int | None = None

    def __post_init__(self) -> None:
        if self.per_layer is not None and self.per_layer < 1:
            raise ValueError(f"per_layer is {self.per_layer}; give 1 or more, or None for any number.")


@dataclass(frozen=True, eq=False)
class ClassScores:
    """By class and neuron: the score, the z-scored parts, and the share of activations above 0."""

    names: tuple[str, ...]
    score: Float[Tensor, "class unit"]
    effect: Float[Tensor, "class unit"]
    log_odds: Float[Tensor, "class unit"]
    relative: Float[Tensor, "class unit"]
    rate: Float[Tensor, "class unit"]
    __repr__ = brief

    def exclusive(self, bounds: Bounds) -> Float[Tensor, "class unit"]:
        """The scores of units that pass the bounds in one class, and there only; 0 elsewhere."""
        keep = (self.rate >= bounds.rate) & (self.effect >= bounds.effect)
        kept = torch.where(keep & (self.log_odds >= bounds.log_odds), self.score, 0.0)
        best, second = kept.topk(2, dim=0).values
        return torch.where((kept == best) & (kept > 0) & (best - second >= bounds.margin), kept, 0.0)


@verb
def class_neurons(
    model: Model,
    classes: Mapping[str, Any],
    n: int,
    *,
    layer: Layers = None,
    pos: AnyPositions = "all",
    bounds: Bounds | None = None,
    batch_size: int | None = None,
) -> dict[str, Neurons]:
    """For each class of prompts (two or more), at most n neurons that are specific to it, best first.

    pos: "all" counts every token of the prompts, as the paper does. A class for which no neuron passes the
    bounds gets none: give weaker ones. Raises ValueError, before any pass, for fewer than two classes, an
    empty class, n below 1, a layer that the model does not have. Cost: one forward pass of each prompt as far
    as the last layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> chosen = methods.class_neurons(model, {"clean": up, "corrupt": down}, 3)
        >>> sorted(chosen)
        ['clean', 'corrupt']
    """
    limits = Bounds() if bounds is None else bounds
    if len(classes) < 2 or n < 1:
        raise ValueError(f"got {len(classes)} classes and n = {n}; give two classes or more and n >= 1.")
    layers = layer_numbers(model, layer)
    prompts = {name: read(model, each, what=f"class {name!r}") for name, each in classes.items()}
    options: dict[str, Any] = {"layer": layers, "pos": pos, "batch_size": batch_size}
    rows = {name: neuron_activations(model, each, **options) for name, each in prompts.items()}
    d_mlp = next(iter(rows.values())).shape[2]
    scores = class_scores({name: each.flatten(1) for name, each in rows.items()}).exclusive(limits)
    return {
        name: Neurons(_chosen(score.view(-1, d_mlp), n, layers, limits.per_layer), layers, d_mlp, name)
        for name, score in zip(classes, scores)
    }


@verb
def class_scores(rows: Mapping[str, Float[Tensor, "_ unit"]]) -> ClassScores:
    """Scores of every unit for every class, from activations [row, unit] by class, in float64. Pure.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> tuple(methods.class_scores({"up": up, "down": down}).score.shape)
        (2, 8)
    """
    if len(rows) < 2:
        raise ValueError(f"class_scores needs two classes or more, got {len(rows)}.")
    empty = [name for name, each in rows.items() if not len(each)]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no rows. Give at least one of each class.")
    if len(widths := {each.shape[1] for each in rows.values()}) > 1:
        raise ValueError(f"the classes have {', '.join(map(str, sorted(widths)))} units; give the same.")
    parts = []
    for name in rows:
        others = torch.cat([each for other, each in rows.items() if other != name])
        parts.append(_parts(rows[name].double(), others.double()))
    effect, log_odds, relative, rate = (torch.stack(part) for part in zip(*parts))
    effect, log_odds, relative = (_z(part) for part in (effect, log_odds, relative))
    score = WEIGHTS[0] * effect + WEIGHTS[1] * log_odds + WEIGHTS[2] * relative
    return ClassScores(tuple(rows), score, effect, log_odds, relative, rate)


def _parts(own: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Effect size, log odds, relative mean (0 or more) and the rate, of each unit."""
    gap = own.mean(0) - rest.mean(0)
    one, two = (each.var(0, unbiased=False).clamp(min=_SMALL) for each in (own, rest))
    effect = gap / ((one + two) / 2 + _SMALL).sqrt()
    rate, other = ((each > 0).double().mean(0).clamp(_SMALL, 1 - _SMALL) for each in (own, rest))
    log_odds = torch.logit(rate) - torch.logit(other)
    relative = gap / (rest.mean(0).abs() + 1e-2)
    return effect.clamp(min=0), log_odds.clamp(min=0), relative.clamp(min=0), rate


def _z(part: Float[Tensor, "class unit"]) -> Tensor:
    spread = part.std(1, keepdim=True).nan_to_num(0.0).clamp(min=_SMALL)
    return (part - part.mean(1, keepdim=True)) / spread


def _chosen(
    score: Float[Tensor, "layer neuron"], n: int, layers: tuple[int, ...], per_layer: int | None
) -> tuple[tuple[int, int], ...]:
    """The best n units with a score above 0, at most per_layer of a layer."""
    width, count = score.shape[1], dict.fromkeys(layers, 0)
    chosen: list[tuple[int, int]] = []
    for each in score.flatten().argsort(descending=True, stable=True).tolist():
        row, index = divmod(each, width)
        if len(chosen) == n or float(score[row, index]) <= 0:
            break
        if per_layer is None or count[layers[row]] < per_layer:
            chosen.append((layers[row], index))
            count[layers[row]] += 1
    return tuple(chosen)
