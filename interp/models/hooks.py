"""Hooks that patch a site, the same in effect on HookedTransformer and TransformerBridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from interp.models.anatomy import Model
from interp.places import hook_name

Hook = tuple[str, Callable[..., Tensor]]
Where = tuple[int | slice, ...]


def patch_hooks(model: Model, site: str, layer: int, where: Where, source: Tensor) -> list[Hook]:
    """Forward hooks that put `source[where]` into a site; the hooked tensor itself is not changed.

    On a bridge `hook_resid_mid` is the input of the second norm alone: what it returns does not reach the
    stream. There the patch goes through attention's write, which is resid_mid - resid_pre.
    """
    if site == "resid_mid" and is_bridge(model):
        return _mid_through_attention(layer, where, source)

    def put(tensor: Tensor, hook: Any) -> Tensor:
        out = tensor.clone()
        out[where] = source[where]
        return out

    return [(hook_name(site, layer), put)]


def slope_hook(model: Model, site: str, layer: int) -> str:
    """The hook point at which the slope in a site is read.

    On a bridge `hook_resid_mid` lies on the MLP's branch alone; the slope in the stream is that in what
    attention adds to it.
    """
    return hook_name("attn_out" if site == "resid_mid" and is_bridge(model) else site, layer)


def is_bridge(model: Model) -> bool:
    """Whether the model is a TransformerBridge."""
    return type(model).__name__ == "TransformerBridge"


def _mid_through_attention(layer: int, where: Where, source: Tensor) -> list[Hook]:
    seen: dict[str, Tensor] = {}

    def keep(tensor: Tensor, hook: Any) -> Tensor:
        seen["pre"] = tensor
        return tensor

    def write(tensor: Tensor, hook: Any) -> Tensor:
        out = tensor.clone()
        out[where] = source[where] - seen["pre"][where]
        return out

    return [(hook_name("resid_pre", layer), keep), (hook_name("attn_out", layer), write)]
