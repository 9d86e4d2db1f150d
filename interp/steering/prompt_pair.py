"""Activation addition: the difference of two prompts, position by position (ActAdd, 2308.10248).

The shorter prompt is padded on the right, as in the paper. The result has one vector for each position, which
`inject` adds at the first positions of the prompt that is steered.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from interp.models import Model, anatomy
from interp.steering.activations import activations
from interp.steering.direction import Direction
from interp.steering.places import Layers, places
from interp.steering.prompts import Prompts, read
from interp.tasks import vocabulary


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
    wanted = places(anatomy(model), layer, site)
    above, below = (activations(model, ids, wanted, "all") for ids in (up, down))
    return Direction(
        vectors={where: above[where] - below[where] for where in wanted},
        layout="positions",
        model=anatomy(model).name,
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
