"""Which columns of prompts an index, a span or a function marks; ValueError where they are outside of one.

The simple members of the language of `interp.positions`: [prompt, pos], True where marked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp._arguments import shown, whole
from interp.prompts import Prompts


def ends(span: tuple[Any, ...] | slice) -> tuple[int | None, int | None]:
    """The ends of a span, None where it is open. ValueError for what is no span."""
    step = span.step if isinstance(span, slice) else None
    pair = (span.start, span.stop) if isinstance(span, slice) else span
    if step not in (None, 1) or len(pair) != 2:
        raise ValueError(f"{span!r} is no span of positions; give (start, stop), or a slice without a step.")
    start, stop = (None if end is None else whole(f"an end of the span {span!r}", end) for end in pair)
    return start, stop


def by_index(index: Int[Tensor, "prompt"], prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
    columns = torch.where(index < 0, index + prompts.lengths, index)
    bad = (columns < 0) | (columns >= prompts.lengths)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"position {int(index[row])} is outside prompt {row}, which has {int(prompts.lengths[row])} "
            "tokens. Positions count from the first real token; negative ones from the last."
        )
    return torch.arange(prompts.tokens.shape[1], device=columns.device) == columns[:, None]


def by_span(span: tuple[Any, ...] | slice, prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
    start, stop = ends(span)
    start = 0 if start is None else start
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


def by_function(chooses: Callable[[Tensor, Tensor], Any], prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
    given = chooses(prompts.tokens, prompts.lengths)
    try:
        chosen = torch.as_tensor(given, device=prompts.tokens.device)
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.zeros(())
    if chosen.dtype != torch.bool:
        if chosen.shape != prompts.lengths.shape or chosen.is_floating_point() or chosen.is_complex():
            raise ValueError(
                f"pos returned {shown(given)} for {len(prompts)} prompts; return one index for each prompt, "
                "a whole number, or a mask [prompt, pos]."
            )
        return by_index(chosen.long(), prompts)
    real = prompts.real
    if chosen.shape != real.shape or not bool(chosen.any(1).all()) or bool((chosen & ~real).any()):
        raise ValueError(
            f"pos returned a mask of shape {tuple(chosen.shape)}; it must have shape "
            f"{tuple(real.shape)} and mark at least one real token of each prompt, and no padding."
        )
    return chosen
