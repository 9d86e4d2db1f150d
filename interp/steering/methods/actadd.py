"""Activation addition: one pair of prompts, position by position (ActAdd, Turner et al., 2308.10248).

1. Pad the shorter prompt on the right with spaces, so that the two have as many tokens.
2. Take the activations of both at the place; their difference has one vector for each position.
3. Add coefficient · difference to the first positions of the prompt that is steered:
   h[p] + c · (h₊[p] − h₋[p]) for p < tokens of the pair. What is generated is not edited.

Sign: a positive coefficient goes from `negative` to `positive`. Units: those of the activations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interp.models.anatomy import Model
from interp.steering.interventions import Made, finite, inject
from interp.steering.places import Layers
from interp.steering.prompt_pair import prompt_pair
from interp.steering.when import prompt_only


def actadd(
    model: Model,
    positive: Any,
    negative: Any,
    layer: Layers,
    coefficient: float | int = 1.0,
    *,
    site: str = "resid_pre",
    start: int = 0,
    pad: int | None = None,
) -> Made:
    """Interventions that add the difference of two prompts to the front of a prompt, for `steer`, `generate`.

    positive, negative: a string, or ids [pos], each. layer: one, several, or None for all. start: where in
    the steered prompt the first vector is added. pad: the id that fills the shorter prompt (default: a space
    where the vocabulary has one, else the padding token). A prompt shorter than the pair takes its first
    vectors only. `steering.prompt_pair` gives the vectors themselves.

    Both prompts begin with the same token where the model prepends one: the vector there is 0. Coefficient 0
    changes nothing, equal prompts give vectors of 0, and exchanging the prompts turns the sign.

    Cost: two forward passes of one prompt, as far as the last layer. Raises ValueError, before them, for more
    than one prompt on a side, a coefficient that is not finite, a negative start, a place that the model does
    not have. Paper: 2308.10248.
    """
    finite("coefficient", coefficient)
    if start < 0:
        raise ValueError(f"start is {start}; positions count from the first real token, 0.")
    pair = prompt_pair(model, positive, negative, layer=layer, site=site, pad=pad)
    return tuple(replace(each, when=prompt_only) for each in inject(pair, coefficient, start=start))
