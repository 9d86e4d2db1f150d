"""Prompts as right-padded token ids with their lengths.

Causal attention lets nothing flow from the right to the left, so right padding needs no mask, and column i
is the i-th real token of every row: columns are absolute positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.models import Model
from interp.tasks import vocabulary
from interp.tasks._prompts import unknown_words
from interp.tasks._validate import require


@dataclass(frozen=True, eq=False)
class Prompts:
    """Rows of token ids; row i has `lengths[i]` real tokens, then padding."""

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, "prompt"]
    texts: tuple[str, ...] | None = field(default=None)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def real(self) -> Bool[Tensor, "prompt pos"]:
        """Which columns are tokens of the prompt."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    def __getitem__(self, rows: Int[Tensor, "row"]) -> Prompts:
        return Prompts(self.tokens[rows], self.lengths[rows])

    def batches(self, size: int, *, padded: bool = True) -> Iterator[tuple[Tensor, Prompts]]:
        """Row numbers and rows, longest first, cut to the longest of the batch.

        padded: whether rows of several lengths may stand together; not where attention goes both ways.
        """
        order = self.lengths.argsort(descending=True, stable=True)
        parts = [order]
        if not padded:
            parts = order.split(self.lengths.unique(return_counts=True)[1].flip(0).tolist())
        for rows in (rows for part in parts for rows in part.split(size)):
            longest = int(self.lengths[rows].max())
            yield rows, Prompts(self.tokens[rows, :longest], self.lengths[rows])

    def data_hash(self) -> str:
        """sha256 of the real tokens; the same whatever the padding."""
        digest = hashlib.sha256()
        for row, length in zip(self.tokens.tolist(), self.lengths.tolist()):
            digest.update(f"{row[:length]}".encode())
        return digest.hexdigest()


def read(model: Model, data: Any, mask: Tensor | None = None, what: str = "prompts") -> Prompts:
    """Prompts from a string, strings, token ids [prompt, pos] (or [pos]), a list of rows of ids, or a Task.

    mask: True where a token is real, for ids padded on the left or the right. Raises ValueError for no
    prompts, an empty prompt, ids outside the vocabulary, a prompt longer than the model's context.
    """
    if isinstance(data, Prompts):
        prompts = data
    elif isinstance(data, Tensor):
        prompts = _from_ids(data, mask, what)
    elif hasattr(data, "clean") and hasattr(data, "lengths"):
        prompts = Prompts(data.clean, data.lengths)
    else:
        prompts = _from_rows(model, data, what)
    return _checked(model, prompts, what)


def _from_ids(ids: Tensor, mask: Tensor | None, what: str) -> Prompts:
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"{what}: token ids have shape {tuple(ids.shape)}, {ids.dtype}; give [prompt, pos].")
    if mask is None:
        lengths = torch.full((ids.shape[0],), ids.shape[1], device=ids.device)
        return Prompts(ids.long(), lengths)
    mask = (mask[None] if mask.ndim == 1 else mask).bool()
    if mask.shape != ids.shape:
        raise ValueError(
            f"{what}: the mask has shape {tuple(mask.shape)}, the token ids {tuple(ids.shape)}. "
            "Give one mark for each token."
        )
    order = (~mask).long().argsort(dim=1, stable=True)  # real tokens first, in their order
    real, ends = mask.long(), mask.any(1)
    first = real.argmax(1)
    span = mask.shape[1] - real.flip(1).argmax(1) - first
    if bool((ends & (span != real.sum(1))).any()):
        raise ValueError(f"{what}: the mask has a gap inside a prompt. Pad on the left or on the right only.")
    return Prompts(ids.long().gather(1, order), real.sum(1))


def from_left(tokens: Int[Tensor, "row pos"], mask: Tensor | None, lengths: Int[Tensor, "row"]) -> Prompts:
    """Prompts of a pass's tokens, perhaps padded on the left: the first `lengths` real ones of each row."""
    if mask is None:
        return Prompts(tokens, lengths)
    order = (~mask.bool()).long().argsort(dim=1, stable=True)
    return Prompts(tokens.gather(1, order), lengths)


def _from_rows(model: Model, data: Any, what: str) -> Prompts:
    if isinstance(data, str):
        data = [data]
    if not isinstance(data, Sequence) or not len(data):
        got = "no prompts" if isinstance(data, Sequence) else f"a {type(data).__name__}"
        raise ValueError(f"{what}: got {got}. Give strings, token ids [prompt, pos], or a Task.")
    texts = tuple(data) if all(isinstance(each, str) for each in data) else None
    if texts is not None:
        require(unknown_words(model, what, texts))
    rows = data if texts is None else [vocabulary.encode(model, text) for text in texts]
    rows = [torch.as_tensor(row, dtype=torch.long).flatten() for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), max(1, int(lengths.max()))), vocabulary.pad(model))
    for row, target in zip(rows, ids):
        target[: len(row)] = row
    return Prompts(ids, lengths, texts)


def _checked(model: Model, prompts: Prompts, what: str) -> Prompts:
    if not len(prompts):
        raise ValueError(f"{what}: there are 0 prompts. Give at least one.")
    if int(prompts.lengths.min()) < 1:
        raise ValueError(f"{what}: prompt {int(prompts.lengths.argmin())} has no tokens.")
    low, high = int(prompts.tokens.min()), int(prompts.tokens.max())
    if low < 0 or high >= vocabulary.size(model):
        raise ValueError(
            f"{what}: token id {low if low < 0 else high} is outside the vocabulary of "
            f"{vocabulary.size(model)} tokens."
        )
    limit, longest = vocabulary.context(model), int(prompts.lengths.max())
    if limit is not None and longest > limit:
        raise ValueError(f"{what}: a prompt has {longest} tokens, the model's context is {limit}. Cut it.")
    with torch.inference_mode(False):
        tokens, lengths = (t.clone().to(vocabulary.device(model)) for t in (prompts.tokens, prompts.lengths))
    return Prompts(tokens[:, :longest], lengths, prompts.texts)
