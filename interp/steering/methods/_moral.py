"""A moral direction: first principal component of do's and don'ts (Schramowski et al., 2103.11790).

1. Embed every phrase e: its activations at one place, mean over the tokens or at the last one.
2. m = first principal component of e − ē, all phrases together. The labels do not enter, but for the sign.
3. A sentence's score is m̂ᵀ (e − ē).

That the component is moral is a finding, not a definition: `explained` says how much of the variance it
holds, and scores of phrases that were left out say whether it follows the labels. Sign: do's are above
don'ts on average. Units: those of the activations. Unlike `steering.pca` this centres, and pairs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import vector_places
from interp.positions import AnyPositions, weights
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on


@dataclass(frozen=True, eq=False)
class MoralDirection:
    """`direction` (unit vector), `centre` [d], and the share of variance of each component [component].

    pos: where sentences are read.
    """

    direction: Direction
    centre: Float[Tensor, "d"]
    explained: Float[Tensor, "component"]
    pos: AnyPositions
    __repr__ = brief

    def score(
        self, model: Model, sentences: Any, *, batch_size: int | None = None
    ) -> Float[Tensor, "prompt"]:
        """m̂ᵀ (e − ē) of each sentence: above 0 is nearer to the do's. Sort candidates by it to rank them.

        Cost: one forward pass of each sentence as far as the layer. Raises ValueError, before any pass, for
        another model, and no sentences.
        """
        where = self.direction.check(model).place
        rows = activations(model, sentences, where, self.pos, batch_size=batch_size)
        return self.direction.project(rows.double() - self.centre.to(rows.device))


@verb
def moral_direction(
    model: Model,
    dos: Any,
    donts: Any,
    *,
    layer: int,
    site: str = "resid_pre",
    pos: AnyPositions = "mean",
    batch_size: int | None = None,
) -> MoralDirection:
    """The first principal component of the activations of all phrases, from the don'ts to the do's.

    dos, donts: phrases, any number of each ("I should help people", ...): strings or token ids.

    Cost: one forward pass of each phrase as far as the layer. Raises ValueError, before any pass, for an
    empty side, fewer than three phrases, pos="all", a place that the model does not have; and after it where
    all phrases have the same activations. Paper: 2103.11790.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> moral = methods.moral_direction(model, up, down, layer=1)
        >>> tuple(moral.score(model, up).shape)
        (4,)
    """
    if pos == "all":
        raise ValueError("pos is 'all'; a phrase has one embedding. Use 'mean' or 'last'.")
    (where,) = vector_places(anatomy(model), layer, site)
    sides = read(model, dos, what="dos"), read(model, donts, what="donts")
    if len(sides[0]) + len(sides[1]) < 3:
        raise ValueError("a principal component needs three phrases or more; there are 2.")
    for side in sides:
        weights(pos, side)
    up, down = (_rows(model, side, where, pos, batch_size) for side in sides)
    both = torch.cat((up, down))
    centre = both.mean(0)
    _, sizes, axes = torch.linalg.svd(both - centre, full_matrices=False)
    if float(sizes[0]) <= 1e-9 * float(both.norm()):
        raise ValueError(f"all phrases have the same activations at {where}. Read another layer or position.")
    axis = axes[0] if float((up.mean(0) - down.mean(0)) @ axes[0]) >= 0 else -axes[0]
    direction = Direction(
        {where: axis},
        **found_on(model),
        method="moral_direction",
        positions=pos if isinstance(pos, str) else repr(pos),
        norms={where: both.norm(dim=1).median().item()},
        means={where: ((up.mean(0) @ axis).item(), (down.mean(0) @ axis).item())},
        data=f"{sides[0].data_hash()} {sides[1].data_hash()}",
    )
    return MoralDirection(direction, centre, sizes.square() / sizes.square().sum(), pos)


def _rows(
    model: Model, data: Prompts, where: Any, pos: AnyPositions, batch_size: int | None
) -> Float[Tensor, "prompt d"]:
    return activations(model, data, where, pos, batch_size=batch_size).flatten(1).double()
