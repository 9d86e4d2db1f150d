"""Expert units and AurA: damp each neuron by as much as it tells a class apart (2407.12824).

1. The response of a neuron to a prompt is its largest activation over the prompt's tokens.
2. Its expertise is the area under the ROC curve for telling positive (unwanted) from negative prompts.
3. AurA multiplies every neuron by alpha = 1 - 2 (AUROC - 1/2) where AUROC > 1/2, and leaves the others: 1 at
   chance, 0 for a perfect expert. There is nothing to tune. `experts(n)` gives the n best, to take out whole
   (2110.02802) or to set.

Sign: AUROC above 1/2 where the neuron is higher on the positive prompts, which are those to be damped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.models.places import Layers
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering import selectors
from interp.steering._direction import found_on
from interp.steering.edits import AnyGate, Made, Number, affine, finite
from interp.steering.methods._neurons import Neurons, layer_numbers, neuron_activations, top_neurons


@dataclass(frozen=True, eq=False)
class ExpertUnits:
    """Expertise of every neuron of some layers."""

    auroc: Float[Tensor, "layer neuron"]
    layers: tuple[int, ...]
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model it was found on
    __repr__ = brief

    @property
    def factors(self) -> Float[Tensor, "layer neuron"]:
        """alpha of every neuron, from 0 to 1."""
        return aura_factors(self.auroc)

    def damp(self, strength: Number = 1.0, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """Every neuron times 1 - strength (1 - alpha): AurA at 1, the model itself at 0."""
        finite("strength", strength)
        made = []
        for layer, factors in zip(self.layers, self.factors):
            shift = torch.zeros_like(factors)
            made += affine(Place("post", layer), factors, shift, strength, when=when, gate=gate)
        return tuple(replace(each, **self.found) for each in made)

    def experts(self, n: int) -> Neurons:
        """The n neurons with the largest AUROC, best first."""
        return top_neurons(self.auroc, n, self.layers, "experts")


@verb
def expert_units(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    pos: AnyPositions = "max",
    batch_size: int | None = None,
) -> ExpertUnits:
    """Expertise of the neurons (`post`) in telling positive prompts from negative ones.

    Raises ValueError, before any pass, for an empty class, a layer that the model does not have, a model
    without MLPs. Cost: one forward pass of each prompt as far as the last layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> len(methods.expert_units(model, up, down, layer=1).experts(3))
        3
    """
    layers = layer_numbers(model, layer)
    sides = [read(model, each, what=name) for each, name in ((positive, "positive"), (negative, "negative"))]
    up, down = (
        neuron_activations(model, side, layer=layers, pos=pos, batch_size=batch_size) for side in sides
    )
    scores = selectors.auroc(up.flatten(1), down.flatten(1))
    return ExpertUnits(scores.view(up.shape[1:]), layers, found_on(model))


@verb
def aura_factors(auroc: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """1 - 2 (AUROC - 1/2) where AUROC > 1/2, else 1. ValueError for values outside 0 to 1. Pure.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> methods.aura_factors(torch.tensor([0.25, 0.5, 1.0])).tolist()
        [1.0, 1.0, 0.0]
    """
    if bool(((auroc < 0) | (auroc > 1) | auroc.isnan()).any()):
        raise ValueError("an AUROC lies outside 0 to 1. Give areas, as selectors.auroc returns them.")
    return torch.where(auroc > 0.5, 1 - 2 * (auroc - 0.5), torch.ones_like(auroc))
