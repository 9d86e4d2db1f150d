"""One token after another, with or without a key-value cache, on HookedTransformer and TransformerBridge.

Rows are padded on the left and the attention mask is given to every pass, so that learned and rotary
positions are those of the real tokens. HookedTransformer.generate does not do that without a tokenizer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models import Model, is_bridge


class Decoder:
    """Logits of the next token of every row, step by step."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"], use_cache: bool
    ) -> None:
        self.model, self.tokens, self.mask, self.use_cache = model, tokens, real.long(), use_cache
        self.cache: Any = None
        self._padded = not bool(real.all())

    def logits(self) -> Float[Tensor, "row vocab"]:
        """Run what has not been run, and give the logits after the last column."""
        if not self.use_cache:
            options = {"attention_mask": self.mask} if self._padded else {}
            return self.model(self.tokens, **options)[:, -1]
        return (self._bridge() if is_bridge(self.model) else self._hooked())[:, -1]

    def append(self, new: Int[Tensor, "row"]) -> None:
        """Add a token to every row."""
        self.tokens = torch.cat((self.tokens, new[:, None]), 1)
        self.mask = torch.cat((self.mask, torch.ones_like(new[:, None])), 1)

    def _hooked(self) -> Tensor:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        new, mask = (
            (self.tokens, self.mask) if self.cache is None else (self.tokens[:, -1:], self.mask[:, -1:])
        )
        if self.cache is None:
            rows, device = self.tokens.shape[0], self.tokens.device
            self.cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, device, rows)
        return self.model(new, past_kv_cache=self.cache, attention_mask=mask)

    def _bridge(self) -> Tensor:
        past = {} if self.cache is None else {"past_key_values": self.cache}
        new = self.tokens if self.cache is None else self.tokens[:, -1:]
        options = {"use_cache": True, "return_type": "logits_and_cache", **past}
        logits, self.cache = self.model(new, attention_mask=self.mask, **options)
        return logits
