"""RAST: what tuning taught a small model, added to the logits of a big one while it decodes.

1. Three models of one vocabulary go through the same text: big, small, and small after tuning.
2. logits = big + strength * (tuned - small), at every step; the next token is taken from these.

Derived from the paper's abstract. Strength 0 is the big model, to the bit.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp._verbs import verb
from interp.models import Model, anatomy
from interp.prompts import read
from interp.steering._decoders import Decoder, FastDecoder
from interp.steering._generate import (
    Draws,
    behind_the_ids,
    check_run,
    continued,
    decoding,
    end_ids,
    left_padded,
)
from interp.steering.edits import Number, finite
from interp.tasks import vocabulary


@verb
def rast(
    big: Model,
    small: Model,
    tuned: Model,
    prompts: Any,
    strength: Number = 1.0,
    *,
    max_new_tokens: int = 20,
    mask: Tensor | None = None,
    stop: Any = None,
    engine: str = "auto",
) -> Int[Tensor, "prompt total"]:
    """Continue prompts by big + strength * (tuned - small), the likeliest token at every step.

    big, small, tuned: models of one vocabulary, such as a large base model, a small one, and the small one
    after reinforcement learning. strength: 0 is `steering.generate(big, ...)`, to the bit. The rows, `stop`
    and `engine` are as in `steering.generate`. Raises ValueError, before any pass, for vocabularies that
    differ, a strength that is not finite, and prompts too long for any of the models. Cost: a pass of each
    model for every token.

    Example:
        >>> from interp.steering import methods
        >>> model = interp.load("tiny-ioi")
        >>> text = methods.rast(model, model, model, "Mary gave a book to", 2.0, max_new_tokens=1)
        >>> bool((text == interp.steering.generate(model, "Mary gave a book to", max_new_tokens=1)).all())
        True
    """
    finite("strength", strength)
    for other in (small, tuned):
        _require_one_vocabulary(big, other)
    rows = read(big, prompts, mask)
    for other in (small, tuned):
        read(other, rows)
    for each in (big, small, tuned):
        check_run(each, rows, max_new_tokens, Draws())
    ends, fill = end_ids(big, rows, stop), vocabulary.pad(big)
    tokens, real = left_padded(rows, fill)
    reach = tokens.shape[1] + max_new_tokens
    with torch.no_grad(), ExitStack() as stack:
        used = (big, small, tuned) if strength else (big,)
        decoders = [
            stack.enter_context(decoding(each, tokens, real, (), True, engine, reach, rows)) for each in used
        ]
        whole = continued(_Mixed(decoders, strength), max_new_tokens, ends, fill)
    if whole is None:
        raise ValueError(f"the mixed logits are not finite at strength {strength}. Use a smaller one.")
    return behind_the_ids(whole, real, fill, rows, mask)


class _Mixed:
    """Several decoders of one text, whose logits are mixed."""

    def __init__(self, decoders: list[Decoder | FastDecoder], strength: Number) -> None:
        self.decoders, self.strength = decoders, strength

    @property
    def tokens(self) -> Tensor:
        return self.decoders[0].tokens

    def logits(self) -> Float[Tensor, "row vocab"]:
        big, *others = (each.logits() for each in self.decoders)
        if not others:
            return big
        small, tuned = others
        return big + self.strength * (tuned - small).to(big)

    def append(self, new: Int[Tensor, "row"]) -> None:
        for each in self.decoders:
            each.append(new)


def _require_one_vocabulary(one: Model, other: Model) -> None:
    sizes = [vocabulary.output_size(each) for each in (one, other)]
    names = [anatomy(each).name for each in (one, other)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{names[0]} has a vocabulary of {sizes[0]} tokens and {names[1]} one of {sizes[1]}: their "
            "logits "
            "cannot be added. Use models of one tokenizer."
        )
    if vocabulary.has_tokenizer(one) and vocabulary.has_tokenizer(other):
        words = [vocabulary.tokenizer_of(each).get_vocab() for each in (one, other)]
        if words[0] != words[1]:
            raise ValueError(
                f"the tokenizers of {names[0]} and {names[1]} give tokens other ids: their logits cannot "
                "be added. "
                "Use models of one tokenizer."
            )
