"""A model under interventions: by hooks (`steer`), by taps on its own weights (`taps`), and their proofs.

Hooks need points that the model's pass goes by; taps need weights that give the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from interp._verbs import verb
from interp.engine import trust
from interp.engine.block import SITES as PASSED
from interp.engine.forward import Taps
from interp.models import Model, has_hooks
from interp.models.parts import Weights
from interp.places import STREAM_SITES
from interp.prompts import Prompts
from interp.steering._clock import Clock, Given, watched
from interp.steering._intervention import Act, Intervention, flat


@verb
@contextmanager
def steer(model: Model, *interventions: Any, prompt_length: Given = None) -> Iterator[Model]:
    """Interventions (of `add`, `ablate`, ...) on every forward pass inside the block, in the order given.

        with steering.steer(model, steering.add(direction, 4.0)):
            logits = model(tokens)

    Positions are absolute, from the first real token of each row: give the model its attention_mask where
    rows are padded on the left; a key-value cache is followed. prompt_length: tokens of the prompt where the
    first pass does not show them, as when tokens are generated without a cache; an int, one for each row, or
    the prompts themselves (`interp.prompts.Prompts`).

    Contexts nest. Hooks of yours stay. The model is left as found, also after an exception. Raises
    ValueError, before any pass, for interventions that the model cannot take; at the end of the block for one
    whose positions no pass has reached. Cost: the edits, and once a model a pass of a short row, to prove the
    hook points inside attention and MLP.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> d = interp.steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> with interp.steering.steer(model, interp.steering.add(d, 4.0)):
        ...     logits = model(task.clean)
        >>> logits.shape[0]
        8
    """
    checked = [each.check(model) for each in flat(interventions)]
    prove(model, checked, trust.short_row(model))
    clock = Clock(prompt_length)
    with steered(model, checked, clock):
        yield model
    for each in checked:
        if 0 < clock.reached <= each.when.last:
            raise ValueError(
                f"{each.when}: no pass came to position {each.when.last}, the longest had {clock.reached} "
                f"tokens, so the intervention at {each.place} did nothing there. Choose positions of these "
                "prompts."
            )


@contextmanager
def steered(model: Model, checked: Sequence[Intervention], clock: Clock) -> Iterator[Model]:
    """The model under interventions that have been checked."""
    prompt_length = clock.given
    if isinstance(prompt_length, int):
        for each in checked:
            each.when.check(prompt_length)
    elif isinstance(prompt_length, Prompts):
        for each in checked:
            each.when.check(int(prompt_length.lengths.min()), None, prompt_length.spans)
    hooks = [hook for each in checked for hook in each.hooks(model, clock)]
    seen = [where for each in checked if each.needs_frame for where in each.places]
    layers = {where.layer for where in seen if where.layer is not None}
    watching = watched(model, clock, layers) if layers else nullcontext()
    with watching, model.hooks(fwd_hooks=hooks):
        yield model


def taps(interventions: Iterable[Intervention], clock: Clock) -> Taps:
    """What the interventions do at each site and layer, in the order given, for `engine.forward`."""
    acts: dict[tuple[str, int], list[Act]] = {}
    for each in interventions:
        *reads, (place, edit) = each.taps(clock)
        site = getattr(each.edit, "point", None) or place.site
        for where, act in reads:
            acts.setdefault((where.site, where.layer or 0), []).append(act)
        acts.setdefault((site, place.layer or 0), []).append(edit)
    return {where: partial(_in_turn, listed) for where, listed in acts.items()}


def _in_turn(acts: list[Act], tensor: Tensor) -> Tensor:
    for act in acts:
        tensor = act(tensor)
    return tensor


def own_weights(
    model: Model,
    interventions: Sequence[Intervention],
    tokens: Tensor,
    lengths: Tensor,
    *,
    reach: int = 0,
    engine: str,
    instead: str,
) -> Weights | None:
    """The model's weights where a pass by them makes the interventions as hooks would; None for hooks.

    The other arguments are those of `trust.own_weights`. Hook points that are used instead are proved.
    """
    places = [where for each in interventions for where in each.places]
    parts = trust.own_weights(
        model,
        tokens,
        lengths,
        sites=tuple({where.site for where in places if where.site in PASSED}),
        reach=reach,
        engine=engine,
        instead=instead,
        follow=True,
    )
    if parts is None:
        prove(model, interventions, tokens, lengths)
    return parts


def prove(
    model: Model, interventions: Sequence[Intervention], tokens: Tensor, lengths: Tensor | None = None
) -> None:
    """ValueError for an intervention whose hook point the model goes on without (`trust.prove_sites`).

    Those of the stream are in the path of every model. Under other hooks, which may want the caller's own
    rows, no pass is made for a proof.
    """
    sites = {getattr(each.edit, "point", None) or each.place.site for each in interventions}
    if (inside := sorted(sites - {*STREAM_SITES})) and not has_hooks(model):
        trust.prove_sites(model, tokens, inside, lengths)
