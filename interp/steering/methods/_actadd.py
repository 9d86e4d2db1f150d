"""Activation addition: one pair of prompts, position by position (ActAdd, Turner et al., 2308.10248).

1. Pad the shorter prompt on the right with spaces, so that the two have as many tokens.
2. Take the activations of both at the place; their difference has one vector for each position
   (`prompt_pair`).
3. Add coefficient · difference to the first positions of the prompt that is steered: h[p] + c · (h₊[p] −
   h₋[p]) for p < tokens of the pair. What is generated is not edited. Or to its middle, or to its end; or
   to some coordinates of the stream only.

Sign: a positive coefficient goes from `negative` to `positive`. Units: those of the activations.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp._activations import activations
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.positions import prompt_only
from interp.prompts import Prompts, read
from interp.steering._direction import Direction, found_on
from interp.steering.edits import Made, allowed_start, finite, inject
from interp.tasks import vocabulary


@verb
def actadd(
    model: Model,
    positive: Any,
    negative: Any,
    layer: Layers,
    coefficient: float | int = 1.0,
    *,
    site: str = "resid_pre",
    start: int | str = 0,
    coordinates: slice | None = None,
    pad: int | None = None,
) -> Made:
    """Interventions that add the difference of two prompts to the front of a prompt, for `steer`, `generate`.

    positive, negative: a string, or ids [pos], each. layer: one, several, or None for all. start: where in
    the steered prompt the first vector is added: a position, "mid" or "back" (see `inject`). coordinates: the
    slice of the vectors that is added; None for all. pad: the id that fills the shorter prompt (default: a
    space where the vocabulary has one, else the padding token). A prompt shorter than the pair takes those
    vectors that fall inside it. `steering.prompt_pair` gives the vectors themselves.

    Both prompts begin with the same token where the model prepends one: the vector there is 0. Coefficient 0
    changes nothing, equal prompts give vectors of 0, and exchanging the prompts turns the sign.

    Cost: two forward passes of one prompt, as far as the last layer. Raises ValueError, before them, for more
    than one prompt on a side, a coefficient that is not finite, a negative start, a place that the model does
    not have. Paper: 2308.10248.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> len(methods.actadd(model, "Mary gave", "John gave", 1, 2.0))
        1
    """
    finite("coefficient", coefficient)
    allowed_start(start)
    pair = prompt_pair(model, positive, negative, layer=layer, site=site, pad=pad)
    if coordinates is not None:
        pair = replace(pair, vectors={where: _kept(v, coordinates) for where, v in pair.vectors.items()})
    return tuple(replace(each, when=prompt_only) for each in inject(pair, coefficient, start=start))


def _kept(vectors: Tensor, coordinates: slice) -> Tensor:
    """The vectors [pos, d] with all coordinates but these at 0. ValueError where none is left."""
    out = torch.zeros_like(vectors)
    out[:, coordinates] = vectors[:, coordinates]
    if not out[:, coordinates].numel():
        raise ValueError(f"coordinates {coordinates} select none of the {vectors.shape[-1]} of the stream.")
    return out


@verb
def prompt_pair(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers,
    site: str = "resid_pre",
    pad: int | None = None,
) -> Direction:
    """Activations of one prompt minus those of another: [pos, d] at each place, layout "positions".

    positive, negative: a string, or ids [pos]. pad: the id that fills the shorter one (default: a space where
    the vocabulary has one, else the padding token). Cost: two forward passes as far as the last layer.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> methods.prompt_pair(model, "Mary gave", "John gave", layer=1).layout
        'positions'
    """
    sides = [read(model, each, what=name) for each, name in ((positive, "positive"), (negative, "negative"))]
    for side, name in zip(sides, ("positive", "negative")):
        if len(side) != 1:
            raise ValueError(
                f"prompt_pair compares two prompts; {name} has {len(side)}. Use mean_difference."
            )
    length = max(int(side.lengths[0]) for side in sides)
    fill = _space(model) if pad is None else pad
    up, down = (_padded(side.tokens, length, fill) for side in sides)
    wanted = vector_places(anatomy(model), layer, site)
    above, below = (activations(model, ids, wanted, "all") for ids in (up, down))
    return Direction(
        vectors={where: above[where] - below[where] for where in wanted},
        layout="positions",
        **found_on(model),
        method="prompt_pair",
        positions=f"0 to {length - 1}",
        norms={where: above[where].double().norm(dim=1).median().item() for where in wanted},
        data=hashlib.sha256("".join(side.data_hash() for side in sides).encode()).hexdigest(),
    )


def _padded(tokens: Tensor, length: int, fill: int) -> Prompts:
    ids = torch.full((1, length), fill, device=tokens.device)
    ids[:, : tokens.shape[1]] = tokens
    return Prompts(ids, torch.tensor([length], device=tokens.device))


def _space(model: Model) -> int:
    space = vocabulary.continuation(model, " ") if vocabulary.has_tokenizer(model) else None
    return vocabulary.pad(model) if space is None else space
