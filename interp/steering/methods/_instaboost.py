"""InstABoost: more attention to the instruction (2506.13734).

In every layer and head, and at every step, the attention that goes to the instruction's positions is
multiplied by M, and each row of the pattern normalised again. Adding log M to the scores before the softmax
is the same: exp(s + log M) = M exp(s). A row with attention p on the instruction has p M / (1 + p (M - 1))
after it. M = 1 does nothing, M < 1 turns attention away, and rows that do not see the instruction stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interp._arguments import shown
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, places
from interp.positions import AnyPositions, Positions, everywhere, window
from interp.steering.edits import Made, Number, finite, score_bias


@verb
def boost_attention(
    model: Model,
    instruction: tuple[int, int] | Positions,
    factor: Number,
    *,
    layer: Layers = None,
    heads: Sequence[int] | None = None,
    when: AnyPositions = everywhere,
) -> Made:
    """Attention to the instruction times `factor`, in all layers and heads unless some are given.

    instruction: (start, stop), positions start to stop - 1 counted from the first real token of each row, or
    a set of positions such as `mask(...)` where rows differ. when: the positions that look (destinations).

    For `steer` and `generate`, with and without a cache. Raises ValueError, before any pass, for a factor
    that is not above 0, an empty span, layers or heads that the model does not have. Cost: one addition to
    the scores of each layer.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> from interp.steering import methods
        >>> len(methods.boost_attention(model, (0, 4), 5.0))
        3
    """
    finite("factor", factor)
    if not factor > 0:
        raise ValueError(f"factor is {factor}; it must be finite and above 0.")
    source = instruction if isinstance(instruction, Positions) else _span(instruction)
    layers = [where.layer or 0 for where in places(anatomy(model), _listed(layer), "pattern")]
    made = [score_bias(each, source, factor, heads=heads, when=when) for each in layers]
    return tuple(one.check(model) for parts in made for one in parts)


def _span(span: tuple[int, int]) -> Positions:
    plain = isinstance(span, (tuple, list)) and len(span) == 2 and all(isinstance(end, int) for end in span)
    if not plain or not 0 <= span[0] < span[1]:
        raise ValueError(f"instruction is {shown(span)}; give (start, stop) with 0 <= start < stop.")
    return window(*span)


def _listed(layer: Layers) -> int | list[int] | None:
    return list(layer) if isinstance(layer, Iterable) else layer
