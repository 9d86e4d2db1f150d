"""Which positions of each prompt are read: a weight on every column of right-padded prompts.

| pos             | what is read                                                             |
|-----------------|--------------------------------------------------------------------------|
| "last"          | the last token of each prompt                                            |
| "mean"          | the mean over all tokens of each prompt                                  |
| "all"           | every token, one row each, prompt after prompt                           |
| 3, -2           | that token, counted from the first real one, or from the last            |
| (a, b), slice   | the mean over the tokens a to b-1                                        |
| a function      | (tokens, lengths) -> indices [prompt], or a mask [prompt, pos] (its mean) |
| before(ids)     | the token before the first occurrence of a sequence of ids               |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.steering.prompts import Prompts

Positions = Any  # "last" | "mean" | "all" | int | (int, int) | slice | callable


def weights(pos: Positions, prompts: Prompts) -> Float[Tensor, "prompt pos"]:
    """Weights by which the columns of each prompt are averaged: rows add up to 1 (for "all": 0 or 1).

    Raises ValueError for a position outside a prompt.
    """
    real = prompts.real
    if isinstance(pos, str):
        if pos not in ("last", "mean", "all"):
            raise ValueError(f"pos is {pos!r}; use 'last', 'mean', 'all', an index, a span or a function.")
        chosen = _one(prompts.lengths - 1, real) if pos == "last" else real
        return chosen.double() if pos == "all" else _average(chosen)
    if isinstance(pos, int):
        return _average(_index(torch.full_like(prompts.lengths, pos), prompts))
    if isinstance(pos, (tuple, slice)):
        return _average(_span(pos, prompts))
    if callable(pos):
        return _average(_called(pos, prompts))
    raise ValueError(
        f"pos is a {type(pos).__name__}; use 'last', 'mean', 'all', an index, a span, a function."
    )


def before(ids: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """A `pos=` that reads the token before the first occurrence of `ids`.

    That is the last token of an instruction which a fixed marker follows ("Assistant:"). Raises ValueError,
    when used, for a prompt without the marker.
    """

    def index(tokens: Tensor, lengths: Tensor) -> Tensor:
        marker = torch.tensor(list(ids), device=tokens.device)
        windows = tokens.unfold(1, len(marker), 1)  # [prompt, start, len(marker)]
        starts = torch.arange(windows.shape[1], device=tokens.device)
        here = (windows == marker).all(-1) & (starts + len(marker) <= lengths[:, None])
        if not bool(here.any(1).all()):
            row = int((~here.any(1)).nonzero()[0])
            raise ValueError(f"prompt {row} does not have the token ids {marker.tolist()}.")
        return here.int().argmax(1) - 1

    return index


def _average(chosen: Tensor) -> Float[Tensor, "prompt pos"]:
    return chosen.double() / chosen.sum(1, keepdim=True)


def _one(index: Tensor, real: Tensor) -> Tensor:
    return torch.arange(real.shape[1], device=real.device) == index[:, None]


def _index(index: Int[Tensor, "prompt"], prompts: Prompts) -> Tensor:
    columns = torch.where(index < 0, index + prompts.lengths, index)
    bad = (columns < 0) | (columns >= prompts.lengths)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"position {int(index[row])} is outside prompt {row}, which has {int(prompts.lengths[row])} "
            "tokens. Positions count from the first real token; negative ones from the last."
        )
    return _one(columns, prompts.real)


def _span(span: tuple[int, int] | slice, prompts: Prompts) -> Tensor:
    start, stop = (span.start or 0, span.stop) if isinstance(span, slice) else span
    first = torch.full_like(prompts.lengths, start) + (prompts.lengths if start < 0 else 0)
    last = prompts.lengths if stop is None else torch.full_like(prompts.lengths, stop)
    last = last + (prompts.lengths if stop is not None and stop < 0 else 0)
    bad = (first < 0) | (last > prompts.lengths) | (first >= last)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"the span {start} to {stop} is empty in, or outside, prompt {row}, which has "
            f"{int(prompts.lengths[row])} tokens."
        )
    columns = torch.arange(prompts.tokens.shape[1], device=prompts.tokens.device)
    return (columns >= first[:, None]) & (columns < last[:, None])


def _called(pos: Callable[..., Any], prompts: Prompts) -> Tensor:
    found = torch.as_tensor(pos(prompts.tokens, prompts.lengths), device=prompts.tokens.device)
    if found.dtype != torch.bool:
        if found.shape != prompts.lengths.shape:
            raise ValueError(
                f"pos returned indices of shape {tuple(found.shape)} for {len(prompts)} prompts; "
                "return one index for each prompt, or a mask [prompt, pos]."
            )
        return _index(found.long(), prompts)
    if (
        found.shape != prompts.real.shape
        or not bool(found.any(1).all())
        or bool((found & ~prompts.real).any())
    ):
        raise ValueError(
            f"pos returned a mask of shape {tuple(found.shape)}; it must have shape "
            f"{tuple(prompts.real.shape)} and mark at least one real token of each prompt, and no padding."
        )
    return found
