"""A clock that knows where the rows of the running pass stand, and the hooks on a model that tell it.

A row's prompt has `lengths` tokens. They are set by the first pass (the prefill), or given, and held while
the cache grows. HookedTransformer hands every block its cache entry and the mask; TransformerBridge hands
the inner model the whole cache and the mask. Neither is changed; the hooks are gone after the block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp.models import Model, is_bridge
from interp.positions import Frame
from interp.prompts import Prompts, from_left

Given = int | Int[Tensor, "row"] | Prompts | None


class Clock:
    """The frame of the pass that is running. given: the prompts, or their lengths, where they are known."""

    def __init__(self, given: Given = None) -> None:
        self.given = given
        self.frame: Frame | None = None
        self.tokens: Tensor | None = None
        self.memory: dict[int, Tensor] = {}  # what a gate decided at the prefill, by gate
        self.reached = 0  # positions that passes have come to
        self._held: Tensor | None = None
        self._seen: tuple[Tensor, Tensor | None] | None = None  # tokens and mask of the last prefill
        self._key: tuple | None = None
        self._mask: Tensor | None = None

    def start(self, tokens: Tensor | None) -> None:
        """A pass starts, from token ids if they are known."""
        self.tokens, self._key = tokens, None

    def now(self, device: torch.device) -> Frame:
        """The frame of the running pass, on the device of the layer that asks."""
        if self.frame is None:
            raise ValueError("the model runs its blocks in an unknown way: no block's input was seen.")
        return self.frame.on(device)

    def tick(self, offset: int, mask: Tensor | None, size: tuple[int, int], device: torch.device) -> None:
        """Columns in the cache, the attention mask [row, offset + columns] if any, rows and columns."""
        if self._key == (offset, size) and mask is self._mask:
            return
        self._key, self._mask = (offset, size), mask
        padding = lengths = None
        if mask is not None:
            mask = mask.to(device).bool()
            padding = mask.int().argmax(1)
            lengths = mask.sum(1)
        if self.given is not None:
            self._held = self._rows(self.given, size[0], device)
        elif offset == 0:
            self._held = self._rows(size[1], size[0], device) if lengths is None else lengths
        elif self._held is not None and len(self._held) != size[0]:
            self._held = None
        if offset == 0:
            self.memory.clear()
            self._seen = None if self.tokens is None else (self.tokens, mask)
        self.reached = max(self.reached, offset + size[1])
        self.frame = Frame(offset, padding, size, device, self._held, self.tokens, self.prompts)

    def prompts(self) -> Prompts | None:
        """The prompts of the rows, given or as the prefill began with them; None if neither is known."""
        if isinstance(self.given, Prompts):
            return self.given
        if self._seen is None or self._held is None:
            return None
        tokens, mask = self._seen
        return from_left(tokens, mask, self._held)

    @staticmethod
    def _rows(given: int | Tensor | Prompts, rows: int, device: torch.device) -> Tensor:
        length = given.lengths if isinstance(given, Prompts) else given
        found = torch.as_tensor(length, device=device).expand(rows) if isinstance(length, int) else length
        if len(found) != rows:
            raise ValueError(
                f"prompt_length has {len(found)} entries, the batch {rows} rows. Give one a row."
            )
        return found.to(device)


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
