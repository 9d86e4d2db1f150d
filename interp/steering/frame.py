"""Where the rows of a running pass stand: absolute positions, counted from the first real token.

With a key-value cache a pass holds only the newest tokens, and with left padding the first columns are no
tokens; neither changes the position of a token here. A row's prompt has `lengths` tokens. They are set by the
first pass (the prefill), or given, and held while the cache grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Frame:
    """One pass. Negative positions are padding on the left."""

    offset: int  # columns in the cache
    padding: Int[Tensor, "row"] | None  # columns before the first real token; None: no row has any
    size: tuple[int, int]  # rows, columns of this pass
    device: torch.device
    prompt_lengths: Int[Tensor, "row"] | None
    all_tokens: Int[Tensor, "row pos"] | None = None  # of this pass, where it started from tokens

    @cached_property
    def positions(self) -> Int[Tensor, "row pos"]:
        """Absolute position of every column of the pass."""
        return self._columns(self.offset, self.offset + self.size[1])

    @cached_property
    def keys(self) -> Frame:
        """The frame of all columns that the pass attends to: the cache's and its own."""
        whole = (self.size[0], self.offset + self.size[1])
        tokens = self.all_tokens if self.offset == 0 else None
        return Frame(0, self.padding, whole, self.device, self.prompt_lengths, tokens)

    @property
    def lengths(self) -> Int[Tensor, "row 1"]:
        """Tokens of each prompt."""
        if self.prompt_lengths is None:
            raise ValueError(
                "the prompt's length is not known: the pass goes on from a cache that was filled before. Put "
                "the prefill inside steer as well, or give steer(prompt_length=...)."
            )
        return self.prompt_lengths[:, None]

    @property
    def tokens(self) -> Int[Tensor, "row pos"]:
        """Token ids of this pass."""
        if self.all_tokens is None or self.all_tokens.shape != self.size:
            raise ValueError(
                "tokens(...) needs the token ids of the pass, which started from the stream or goes back "
                "into a cache. Run the model on tokens, or use mask(...)."
            )
        return self.all_tokens

    def _columns(self, start: int, stop: int) -> Tensor:
        columns = torch.arange(start, stop, device=self.device)[None]
        columns = columns if self.padding is None else columns - self.padding[:, None]
        return columns.expand(self.size[0], -1)


class Clock:
    """The frame of the pass that is running, told by hooks on the model (see `watch`)."""

    def __init__(self, prompt_length: int | Int[Tensor, "row"] | None = None) -> None:
        self.given = prompt_length
        self.frame: Frame | None = None
        self.tokens: Tensor | None = None
        self.memory: dict[int, Tensor] = {}  # what a gate decided at the prefill, by gate
        self._held: Tensor | None = None
        self._key: tuple | None = None
        self._mask: Tensor | None = None

    def start(self, tokens: Tensor | None) -> None:
        """A pass starts, from token ids if they are known."""
        self.tokens, self._key = tokens, None

    def now(self) -> Frame:
        """The frame of the running pass."""
        if self.frame is None:
            raise ValueError("the model runs its blocks in an unknown way: no block's input was seen.")
        return self.frame

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
            self.memory.clear()
        elif self._held is not None and len(self._held) != size[0]:
            self._held = None
        if offset == 0:
            self.memory.clear()
        self.frame = Frame(offset, padding, size, device, self._held, self.tokens)

    @staticmethod
    def _rows(length: int | Tensor, rows: int, device: torch.device) -> Tensor:
        found = torch.as_tensor(length, device=device).expand(rows) if isinstance(length, int) else length
        if len(found) != rows:
            raise ValueError(
                f"prompt_length has {len(found)} entries, the batch {rows} rows. Give one a row."
            )
        return found.to(device)
