"""Sets of neurons (site `post`), ranked, and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering.edits import AnyGate, Made, Number, scale_units, set_units


@dataclass(frozen=True, eq=False)
class Neurons:
    """Neurons as (layer, index), the first one ranked highest.

    layers, d_mlp: what they were chosen from.
    """

    ranked: tuple[tuple[int, int], ...]
    layers: tuple[int, ...]
    d_mlp: int
    name: str = "neurons"
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.ranked)

    @property
    def names(self) -> tuple[str, ...]:
        """As in "L3N17"."""
        return tuple(f"L{layer}N{index}" for layer, index in self.ranked)

    @property
    def by_layer(self) -> dict[int, list[int]]:
        """Indices by layer, sorted; layers without any are left out."""
        found: dict[int, list[int]] = {}
        for layer, index in sorted(self.ranked):
            found.setdefault(layer, []).append(index)
        return found

    def first(self, n: int) -> Neurons:
        """The n highest. ValueError for more than there are."""
        if not 0 <= n <= len(self):
            raise ValueError(f"n is {n}; there are {len(self)} neurons.")
        return replace(self, ranked=self.ranked[:n])

    def scale(self, factor: Number, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """Each neuron's activation times a factor: 0 takes them out, 1 + f boosts them."""
        made = [
            scale_units(Place("post", layer), index, factor, when=when, gate=gate)
            for layer, index in self.by_layer.items()
        ]
        return tuple(each for one in made for each in one)

    def fix(self, value: Number, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """Each neuron's activation set to a value."""
        made = [
            set_units(Place("post", layer), index, value, when=when, gate=gate)
            for layer, index in self.by_layer.items()
        ]
        return tuple(each for one in made for each in one)

    def random(self, seed: int = 0) -> Neurons:
        """A control: as many other neurons of each layer, at random. ValueError where too few are left."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for layer, taken in self.by_layer.items():
            rest = [index for index in range(self.d_mlp) if index not in set(taken)]
            if len(rest) < len(taken):
                raise ValueError(
                    f"layer {layer} has {len(taken)} chosen and {len(rest)} other neurons: too few to draw a "
                    "control from. Choose fewer."
                )
            order = torch.randperm(len(rest), generator=generator)[: len(taken)].tolist()
            drawn += [(layer, rest[each]) for each in order]
        return replace(self, ranked=tuple(drawn), name=f"{self.name}, random control")

    def overlap(self, other: Neurons) -> float:
        """Shared neurons / all of both (Jaccard); 0 where both are empty."""
        one, two = set(self.ranked), set(other.ranked)
        return len(one & two) / max(1, len(one | two))


@verb
def top_neurons(
    scores: Float[Tensor, "layer neuron"], n: int, layers: Sequence[int], name: str = "neurons"
) -> Neurons:
    """The n neurons with the highest scores. ValueError for n outside 1 to their number.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> methods.top_neurons(torch.tensor([[0.1, 0.9], [0.5, 0.2]]), 2, [0, 1]).names
        ('L0N1', 'L1N0')
    """
    if len(layers) != len(scores) or len(set(layers)) < len(layers) or min(layers, default=0) < 0:
        raise ValueError(
            f"layers is {list(layers)} for {len(scores)} rows; give the layer of each row, each once."
        )
    if not 1 <= n <= scores.numel():
        raise ValueError(f"n is {n}; there are {scores.numel()} neurons.")
    order = scores.flatten().argsort(descending=True, stable=True)[:n].tolist()
    width = scores.shape[1]
    ranked = tuple((layers[each // width], each % width) for each in order)
    return Neurons(ranked, tuple(layers), width, name)


def layer_numbers(model: Model, layer: Layers) -> tuple[int, ...]:
    """The layers meant by `layer`, whose neurons the model has. ValueError otherwise. No forward pass."""
    return tuple(int(where.layer or 0) for where in places(anatomy(model), layer, "post"))


@verb
def neuron_activations(
    model: Model,
    data: Any,
    *,
    layer: Layers = None,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> Float[Tensor, "row layer neuron"]:
    """Activations at `post`: a row for each prompt, or for each token with pos="all".

    pos: as in `steering.activations`, or "max", the largest value over the prompt's tokens. Cost: one forward
    pass of each prompt as far as the last layer. Raises ValueError before it.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> methods.neuron_activations(model, task.clean, layer=[0, 1]).shape[:2]
        torch.Size([8, 2])
    """
    wanted = places(anatomy(model), layer, "post")
    prompts = read(model, data)
    found = activations(model, prompts, wanted, "all" if pos == "max" else pos, batch_size=batch_size)
    rows = torch.stack([found[where] for where in wanted], 1)
    if pos != "max":
        return rows
    return torch.stack([tokens.amax(0) for tokens in rows.split(prompts.lengths.tolist())])
