"""`steer`: a model under interventions for the duration of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.models import Model
from interp.steering.frame import Clock
from interp.steering.intervention import flat
from interp.steering.watch import watched


@contextmanager
def steer(
    model: Model, *interventions: Any, prompt_length: int | Int[Tensor, "row"] | None = None
) -> Iterator[Model]:
    """Interventions (of `add`, `ablate`, ...) on every forward pass inside the block, in the order given.

        with steering.steer(model, steering.add(direction, 4.0)):
            logits = model(tokens)

    Positions are absolute, from the first real token of each row: give the model its attention_mask where
    rows are padded on the left; a key-value cache is followed. prompt_length: tokens of the prompt where the
    first pass does not show them, as when tokens are generated without a cache; an int, or one for each row.

    Contexts nest. Hooks of yours stay. The model is left as found, also after an exception. Raises
    ValueError, before any pass, for interventions that the model cannot take. Cost: the edits.
    """
    checked = [each.check(model) for each in flat(interventions)]
    if isinstance(prompt_length, int):
        for each in checked:
            each.when.check(prompt_length)
    clock = Clock(prompt_length)
    hooks = [hook for each in checked for hook in each.hooks(model, clock)]
    seen = [where for each in checked if each.needs_frame for where in each.places]
    layers = {where.layer for where in seen if where.layer is not None}
    if layers:
        with (
            watched(model, clock, layers),
            model.hooks(fwd_hooks=hooks),
        ):
            yield model
    else:
        with model.hooks(fwd_hooks=hooks):
            yield model
