"""Attention sinks taken away: what a model loses without the key that heads rest on.

1. Sink score of a key: mean attention that later queries pay it, over heads, by layer.
2. `remove_sink` takes the key away from all later queries (minus infinity on the scores): what they paid it
   goes to the others, and rows still add up to 1.
3. The same with a key that is no sink, drawn at random, is the control: a sink is one where only the first
   costs.

Sinks: Xiao et al. 2309.17453; secondary ones 2512.22213, found by `heads.telemetry`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from interp import heads, results
from interp._verbs import verb
from interp.models import Model, anatomy, logits
from interp.models.places import Layers, places
from interp.places import hook_name
from interp.positions import at, window
from interp.prompts import Prompts, read
from interp.steering._clock import Clock
from interp.steering._generate import require_next_tokens
from interp.steering._intervention import Intervention
from interp.steering._steer import prove, steered
from interp.steering.edits import Made, score_bias

RUNS = ("plain", "removed", "control")
_LATER = 4  # queries that a key must have after it
_ROWS = 16  # prompts at once


@verb
def remove_sink(model: Model, key: int = 0, *, layer: Layers = None) -> Made:
    """Interventions that hide one position from all later queries, in all layers unless some are given.

    key: counted from the first real token of each row. Raises ValueError, before any pass, for a layer that
    is not there and a negative key. Cost: one addition to the scores of each layer.

    Example:
        >>> from interp import steering
        >>> model = interp.load("tiny-ioi")
        >>> with steering.steer(model, steering.methods.remove_sink(model)):
        ...     logits = model(model.to_tokens("When Mary and John went to the store"))
        >>> bool(logits.isfinite().all())
        True
    """
    if key < 0:
        raise ValueError(f"key is {key}; give a position from the first real token on, 0 or more.")
    layers = [where.layer or 0 for where in places(anatomy(model), layer, "pattern")]
    made = [score_bias(each, at(key), 0.0, when=window(key + 1, None)) for each in layers]
    return tuple(one.check(model) for parts in made for one in parts)


@verb
def sink_effect(
    model: Model,
    prompts: Any,
    key: int | None = None,
    *,
    layer: Layers = None,
    mask: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> xr.Dataset:
    """What a sink is worth: loss without it, beside loss without a random key, and where the attention went.

    key: the position to take away; None: that with the highest sink score (`heads.telemetry`), the mean over
    prompts of its highest layer. layer: from which layers; None: all.

    Returns, by run (`plain`, `removed`, `control`): `loss` [prompt, run], nats a token over the tokens after
    both keys; `received` [prompt, run, layer], the mean attention of later queries on the sink; `value`
    [prompt, run], the fall of the loss against `plain` (negative: taking the key away hurts). attrs `key` and
    `control`. Raises ValueError, before any pass, for prompts too short and keys outside them. Cost: three
    forwards a prompt, and one more where the key is to be found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4)
        >>> found = interp.steering.methods.sink_effect(model, task, 0)
        >>> float(found["received"].sel(run="removed").max())
        0.0
    """
    require_next_tokens(model, "There is no loss of a text: use steer with remove_sink.", taught=True)
    rows = read(model, prompts, mask)
    shortest = int(rows.lengths.min())
    last = shortest - _LATER - 1
    if last < 1:
        raise ValueError(f"the shortest prompt has {shortest} tokens; sinks need at least {_LATER + 2}.")
    if key is not None and not 0 <= key <= last:
        raise ValueError(
            f"key is {key}; the shortest prompt has keys 0 to {last} with {_LATER} queries after them."
        )
    if key is None:
        scores = heads.telemetry(model, rows, batch_size=batch_size)["value"].isel(pos=slice(0, last + 1))
        key = int(scores.mean("prompt").max("layer").argmax("pos"))
    others = [each for each in range(last + 1) if each not in (0, key)] or [int(key == 0)]
    control = int(np.random.default_rng(seed).choice(others))
    made = {
        "plain": (),
        "removed": remove_sink(model, key, layer=layer),
        "control": remove_sink(model, control, layer=layer),
    }
    prove(model, made["removed"], rows.tokens, rows.lengths)
    measured = [
        _measured(model, rows, edits, key, max(key, control), batch_size or _ROWS) for edits in made.values()
    ]
    losses = np.stack([loss for loss, _ in measured], 1)
    variables: dict[str, Any] = {
        "value": (("prompt", "run"), losses[:, :1] - losses),
        "loss": (("prompt", "run"), losses),
        "received": (("prompt", "run", "layer"), np.stack([seen for _, seen in measured], 1)),
    }
    coords = {"prompt": np.arange(len(rows)), "run": list(RUNS), "layer": np.arange(anatomy(model).n_layers)}
    attrs = results.provenance(
        method="sink_effect", site="pattern", model=anatomy(model).name, n_prompts=len(rows), seed=seed,
        convention="value = loss(plain) - loss(run), nats a token; negative: taking the key away hurts",
        key=key, control=control,
    )  # fmt: skip
    return results.dataset(variables, coords, attrs)


@torch.no_grad()
def _measured(
    model: Model, rows: Prompts, edits: tuple[Intervention, ...], key: int, after: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss [prompt] after position `after`, and attention [prompt, layer] that the key receives."""
    n_layers = anatomy(model).n_layers
    losses, received = np.empty(len(rows)), np.empty((len(rows), n_layers))
    for index, batch in rows.batches(size, padded=anatomy(model).causal):
        seen: dict[int, Tensor] = {}

        def keep(tensor: Tensor, hook: Any, layer: int, seen: dict = seen) -> Tensor:
            received = tensor[:, :, key + 1 :, key].double().mean(1)  # [prompt, query]
            seen[layer] = received.to(rows.tokens.device)
            return tensor

        real = batch.real
        points = [(hook_name("pattern", layer), partial(keep, layer=layer)) for layer in range(n_layers)]
        with steered(model, edits, Clock(batch)), model.hooks(fwd_hooks=points):
            log = logits(model, batch.tokens).double().log_softmax(-1)
        nats = -log[:, :-1].gather(-1, batch.tokens[:, 1:, None])[..., 0]
        counted = real[:, 1:].clone()
        counted[:, :after] = False
        at_rows = index.cpu().numpy()  # numpy takes a tensor of one row for a number
        losses[at_rows] = _mean(nats, counted).cpu().numpy()
        for layer in range(n_layers):
            received[at_rows, layer] = _mean(seen[layer], real[:, key + 1 :]).cpu().numpy()
    return losses, received


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return values.masked_fill(~counted, 0.0).sum(1) / counted.sum(1)
