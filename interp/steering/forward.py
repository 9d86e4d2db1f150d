"""A forward pass by a model's weights, with taps where interventions act.

The values are those of the model under hooks, without the time that TransformerLens spends on hook points
(benchmarks/steering.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.engine.choose import close, flags
from interp.models import Model, logits, unsupported, weights
from interp.models.parts import Attention, Weights
from interp.steering.frame import Clock
from interp.steering.intervention import Intervention

Taps = Mapping[tuple[str, int], Callable[[Tensor], Tensor]]  # by site and layer, of [row, pos, ...]
Attend = Callable[[Attention, int, Tensor, B.Tap], Tensor]  # normed stream [row · pos, d_model] -> z
_verdicts: WeakKeyDictionary[Model, dict[tuple, str | None]] = WeakKeyDictionary()


def taps(interventions: Iterable[Intervention], clock: Clock) -> Taps:
    """What the interventions do at each site and layer, in the order given."""
    found: dict[tuple[str, int], list[Callable[[Tensor], Tensor]]] = {}
    for each in interventions:
        for where, act in each.taps(clock):
            found.setdefault((where.site, where.layer or 0), []).append(act)
    return {where: _in_turn(acts) for where, acts in found.items()}


def forward(
    weights: Weights,
    x: Float[Tensor, "row pos d_model"],
    start: int,
    taps: Taps,
    attend: Attend | None = None,
) -> Float[Tensor, "row pos d_model"]:
    """The stream after the last block, from the stream before block `start`.

    taps see the activations at their site and layer, and say what to go on with. attend: attention's z
    [row · pos, head, d_head]; by default each row attends to itself, from position 0 on.
    """
    size = (x.shape[0], x.shape[1])
    attend = _whole(size, x.device) if attend is None else attend

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        act = taps.get((site, layer))
        return tensor if act is None else act(tensor.unflatten(0, size)).flatten(0, 1)

    x = x.flatten(0, 1)
    for layer, block in enumerate(weights.blocks[start:], start):
        x = tap("resid_pre", layer, x)
        z = attend(block.attn, layer, B.normed(block.attn_norm, x), tap)
        attn_out = tap("attn_out", layer, B.attn_write(block, z))
        if block.mlp is None:
            x = x + attn_out
        elif block.parallel:
            x = x + attn_out + B.mlp(block.mlp, layer, x, tap)
        else:
            x = tap("resid_mid", layer, x + attn_out)
            x = x + B.mlp(block.mlp, layer, x, tap)
        x = tap("resid_post", layer, x)
    return x.unflatten(0, size)


def unembed(weights: Weights, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of the final stream."""
    return B.unembed(weights, x, weights.W_U, weights.b_U)


def why_not(model: Model, interventions: Iterable[Intervention], prompt: Int[Tensor, "pos"]) -> str | None:
    """Why the model is to be run itself, under hooks; None where its weights give the same.

    At the first use of a model, the last logits of the prompt are compared; the verdict is remembered for as
    long as the model lives. Cost of that: two passes.
    """
    reason = unsupported(model)
    if reason is None and not _passed_by(interventions):
        reason = "an intervention acts on attention scores"
    if reason is not None:
        return reason
    key, known = (model.W_E.dtype, flags(model)), _verdicts.setdefault(model, {})
    if key not in known:
        known[key] = _differs(model, prompt[None])
    return known[key]


def _passed_by(interventions: Iterable[Intervention]) -> bool:
    """Whether a pass by weights comes by every place where they read and act."""
    return all(where.site in B.SITES for each in interventions for where in each.places)


def _differs(model: Model, prompt: Int[Tensor, "1 pos"]) -> str | None:
    try:
        with torch.no_grad():
            parts = weights(model)
            ours = unembed(parts, forward(parts, parts.embed(prompt), 0, {})[:, -1])
            whole = logits(model, prompt)[:, -1]
    except (AttributeError, RuntimeError, TypeError, IndexError) as error:
        return f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    return None if close(model, ours, whole) else "its weights do not give its logits"


def _whole(size: tuple[int, int], device: torch.device) -> Attend:
    n, n_pos = size
    pos = torch.arange(n_pos, device=device)
    rows = torch.arange(n * n_pos, device=device).view(n, n_pos)
    runs = torch.arange(n, device=device)
    groups = [B.Group(0, n_pos, runs, rows, rows, pos, runs)]
    every = pos.repeat(n)

    def attend(attn: Attention, layer: int, h: Tensor, tap: B.Tap) -> Tensor:
        return B.attention(attn, layer, (h, every), (h, every), groups, None, tap)[0]

    return attend


def _in_turn(acts: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def act(tensor: Tensor) -> Tensor:
        for each in acts:
            tensor = each(tensor)
        return tensor

    return act
