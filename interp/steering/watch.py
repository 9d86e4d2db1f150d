"""Hooks that tell a clock which pass is running, on HookedTransformer and TransformerBridge.

HookedTransformer hands every block its cache entry and the mask; TransformerBridge hands the inner model the
whole cache and the mask. Neither is changed; the hooks are gone after the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from interp.models import Model, is_bridge
from interp.steering.frame import Clock


@contextmanager
def watched(model: Model, clock: Clock, layers: set[int]) -> Iterator[None]:
    """The clock follows the model's passes; `layers` are those whose hooks will ask it."""
    with ExitStack() as stack:
        if is_bridge(model):
            inner = model.original_model
            stack.callback(inner.register_forward_pre_hook(_inner(clock), with_kwargs=True).remove)
        else:
            stack.callback(model.embed.register_forward_pre_hook(_embed(clock)).remove)
            for layer in layers:
                block = model.blocks[layer]
                stack.callback(block.register_forward_pre_hook(_block(clock), with_kwargs=True).remove)
        yield


def _embed(clock: Clock) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple) -> None:
        clock.start(args[0] if args else None)

    return hook


def _block(clock: Clock) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        entry, x = kwargs.get("past_kv_cache_entry"), args[0]
        offset = 0 if entry is None else entry.past_keys.shape[1]
        tokens = clock.tokens
        if tokens is not None and tokens.shape != x.shape[:2]:
            clock.start(None)
        clock.tick(offset, kwargs.get("attention_mask"), (x.shape[0], x.shape[1]), x.device)

    return hook


def _inner(clock: Clock) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        if not isinstance(ids, Tensor):
            return
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        offset = 0 if cache is None else int(cache.get_seq_length())
        clock.start(None if ids.is_floating_point() else ids)
        whole = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == offset + ids.shape[1]
        clock.tick(offset, mask if whole else None, (ids.shape[0], ids.shape[1]), ids.device)

    return hook
