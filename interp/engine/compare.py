"""Our forward pass against the model's own, on one prompt: logits and activations, as shares of their spread.

In half precision our logits may be as far from those of our own pass in float32 as rounding takes them, and
the model's a few times that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine import block as B
from interp.engine.forward import through_blocks, unembed, whole_runs
from interp.engine.reference import finite_hooks
from interp.models import Model, is_bridge, logits
from interp.models.parts import Weights
from interp.places import hook_name

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the spread of the logits
LAYOUT = (AttributeError, RuntimeError, TypeError, IndexError, KeyError)  # of a part that is not as expected
_SAMPLE = 1024  # columns of the vocabulary that the spread is measured on


def difference(
    model: Model, parts: Weights, prompt: Tensor, sites: tuple[str, ...]
) -> tuple[str, str] | None:
    """The first site ("" for the logits) at which our pass is not the model's, and how; None if it is."""
    theirs: dict[tuple[str, int], Tensor] = {}
    places = [(site, layer) for site in sites for layer in range(len(parts.blocks))]
    hooks = [(hook_name(*place), keeper(theirs, place)) for place in places]
    hooks = [*finite_hooks(len(parts.blocks)), *(hook for hook in hooks if hook[0] in model.hook_dict)]
    with model.hooks(fwd_hooks=hooks):
        whole = logits(model, prompt)[0]
    try:
        ours: dict[tuple[str, int], Tensor] = {}
        own = _own_logits(parts, prompt, ours, places)
        margin = _margin(model, parts, prompt, own)
    except LAYOUT as error:
        return "", f"its parts are not laid out as expected ({type(error).__name__}: {error})"
    if not torch.isfinite(whole).all():
        return "", "its logits are not finite"
    whole = whole.to(own.device)
    if own.shape != whole.shape:
        return "", f"its weights give {own.shape[-1]} logits, the model {whole.shape[-1]}"
    if not (gap := departure(own, whole)) <= margin:
        return "", f"its weights do not give its logits (they differ by {gap:.2g} of the logits' spread)"
    for place in places:
        site_reason = _site_differs(place, ours.get(place), theirs.get(place), margin)
        if site_reason is not None:
            return place[0], site_reason
    return None


def keeper(kept: dict[tuple[str, int], Tensor], place: tuple[str, int]) -> Callable[..., Tensor]:
    def keep(tensor: Tensor, hook: Any = None) -> Tensor:
        kept[place] = tensor.detach()
        return tensor

    return keep


def _own_logits(
    parts: Weights, prompt: Tensor, kept: dict[tuple[str, int], Tensor], places: list[tuple[str, int]]
) -> Float[Tensor, "pos vocab"]:
    """Logits by the weights, and the activations at some places [pos, ...] (patterns [1, head, dst, src])."""

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        if (site, layer) in places:
            kept[site, layer] = tensor.clone()
        return tensor

    x = parts.embed(prompt)
    final = through_blocks(parts, x.flatten(0, 1), whole_runs((1, x.shape[1])), tap)
    return unembed(parts, final)


def _site_differs(
    place: tuple[str, int], ours: Tensor | None, theirs: Tensor | None, margin: float
) -> str | None:
    name = f"L{place[1]}.{place[0]}"
    if ours is None or theirs is None:
        return f"the forward pass does not go by {name}"
    ours = ours if place[0] == "pattern" else ours[None]
    if ours.shape != theirs.shape:
        return f"{name} has shape {list(theirs.shape)}, expected {list(ours.shape)}"
    theirs = theirs.to(ours.device)
    gap = (ours.double() - theirs.double()).abs().max()
    scale = theirs.double().abs().max()
    if not gap <= 10 * max(margin, 1e-12) * scale:
        return (
            f"{name} of its weights is not that of its hook point (they differ by {float(gap / scale):.2g})"
        )
    return None


def departure(own: Float[Tensor, "pos vocab"], whole: Float[Tensor, "pos vocab"]) -> float:
    """How far logits are from others, as a share of the spread of those; rounding of large ones left out."""
    gap = (own.double() - whole.double()).abs() - margin_of_rounding(own, whole)
    return float((gap.clamp(min=0) / spread(whole)[:, None].clamp(min=torch.finfo(torch.float64).tiny)).max())


def spread(logits: Float[Tensor, "pos vocab"]) -> Float[Tensor, "pos"]:
    """Distance of the quartiles of the logits over the vocabulary, at each position; float64."""
    columns = logits[:, :: max(1, logits.shape[1] // _SAMPLE)].double().sort(-1).values
    n = columns.shape[1]
    quartiles = columns[:, (3 * (n - 1)) // 4] - columns[:, (n - 1) // 4]
    return torch.where(quartiles > 0, quartiles, columns[:, -1] - columns[:, 0])


def margin_of_rounding(own: Tensor, whole: Tensor) -> float:
    """What rounding of the largest logit may come to, where that is far above the spread."""
    dtype = own.dtype if torch.finfo(own.dtype).eps > torch.finfo(whole.dtype).eps else whole.dtype
    return 32 * torch.finfo(dtype).eps * float(whole.double().abs().max()) if dtype.itemsize >= 4 else 0.0


def _margin(model: Model, parts: Weights, prompt: Tensor, own: Tensor) -> float:
    """Shares of the spread by which logits may differ, in the dtype at hand."""
    computed = getattr(model.cfg, "dtype", own.dtype)
    dtype = min((own.dtype, computed), key=lambda each: each.itemsize)
    if dtype.itemsize < 4:
        exact = _exact_logits(parts, prompt)
        return max(5 * departure(own, exact), 8 * torch.finfo(dtype).eps)
    # Norms and softmax of transformers inside a bridge compute in float32, whatever the dtype.
    return 1e-4 if dtype == torch.float64 and is_bridge(model) else TOLERANCE[dtype]


def _exact_logits(parts: Weights, prompt: Tensor) -> Float[Tensor, "pos vocab"]:
    """Logits by the weights in float32, block by block, so that one block has a copy at a time."""
    ends = _wide(replace(parts, blocks=()))
    x = ends.embed(prompt).flatten(0, 1)
    attend = whole_runs((1, len(x)))
    for block in parts.blocks:
        alone = replace(ends, blocks=(_wide(block),))
        x = through_blocks(alone, x, attend, lambda site, layer, tensor, group=None: tensor)
    return unembed(ends, x)


def _wide(part: Any) -> Any:
    """A dataclass of weights with its tensors in float32."""
    if isinstance(part, Tensor):
        return part.float() if part.is_floating_point() else part
    if not is_dataclass(part) or isinstance(part, type):
        return part
    return replace(part, **{each.name: _wide(getattr(part, each.name)) for each in fields(part)})
