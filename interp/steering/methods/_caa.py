"""Contrastive activation addition: the mean difference of pairs (CAA, Rimsky et al., 2312.06681).

1. Read a place at one position of every prompt: v = mean over pairs of h(positive) − h(negative).
2. Add α · v at every position after the prompt (`add_after_prompt`),
3. or take v's part out of the stream wherever something writes to it (`ablate_everywhere`; Arditi et al.,
   2406.11717): h − v̂ v̂ᵀ h.

Over pairs the mean of the differences is the difference of the means: `steering.mean_difference` gives the
same vector. What pairs change is the control: a pair's labels are exchanged, pairs are not torn apart.
Expected cosine with a true difference Δ under noise of variance σ² in each of d dimensions, n of each class:
1/√(1 + 2dσ²/(n‖Δ‖²)).

Sign: v goes from negative to positive. Units: those of the activations; α = 1 is the gap between the means.
"""

from __future__ import annotations

from typing import Any

from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, writers
from interp.places import STREAM_SITES
from interp.positions import AnyPositions, generated
from interp.prompts import Mask
from interp.steering import estimators
from interp.steering._direction import Direction
from interp.steering.edits import Made, ablate, add
from interp.steering.extract import Extraction, between_classes


@verb
def caa(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    mask: Mask = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Direction:
    """Mean difference of paired prompts: [d] at each layer, with the control of exchanged pairs.

    positive, negative: as many strings, or token ids [prompt, pos], each; row i is paired with row i. A pair
    is one question with the matching and the other answer, read at the answer (the last token, say).

    Cost: one forward pass of each prompt as far as the last layer. Raises ValueError, before any pass, for
    lists of different length, no prompts, a place that the model does not have, and for a position outside a
    prompt. Paper: 2312.06681.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> methods.caa(model, up, down, layer=1).method
        'caa'
    """
    how = Extraction(layer, site, None, pos, True, mask, seed, batch_size)
    return between_classes(model, positive, negative, estimators.mean_difference, "caa", how)


@verb
def add_after_prompt(direction: Direction, coefficient: float | int = 1.0, *, unit: str = "vector") -> Made:
    """h + coefficient · v from the last prompt token on: it makes the first new token. unit: as in `add`.

    Cost: one addition a layer and pass. Raises ValueError for a coefficient that is not finite. Paper:
    2312.06681.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> made = methods.add_after_prompt(methods.caa(model, up, down, layer=1), 2.0)
        >>> made[0].when
        generated
    """
    return add(direction, coefficient, unit=unit, when=generated)


@verb
def ablate_everywhere(model: Model, direction: Direction, strength: float | int = 1.0) -> Made:
    """The direction's part taken out of everything that is written to the stream, at all positions.

    direction: one place of the stream. With strength 1 the stream has no part along it at any layer; 0 does
    nothing. `steering.bake` folds the interventions into the weights.

    Cost: one projection for each block's attention and MLP. Raises ValueError, without a pass, for a
    direction with several places, of heads or neurons, or of another model. Paper: 2406.11717.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> len(methods.ablate_everywhere(model, methods.caa(model, up, down, layer=1)))
        7
    """
    where = direction.check(model).place
    if where.site not in STREAM_SITES:
        raise ValueError(
            f"the direction is at {str(where)!r}, which is not in the stream. Give one found at "
            f"{', '.join(STREAM_SITES)}."
        )
    return ablate(direction.spread(writers(anatomy(model))), strength)
