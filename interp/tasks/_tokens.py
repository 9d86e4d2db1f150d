"""Rows of token ids as rectangular tensors: padding of prompts, answers and labels; where a pair differs.

Two prompts of equal length can still be misaligned, when a word more here is made up for by a word less
there. Then the same words stand one position apart, and patching a position compares unlike things. The
sign of it is a run of tokens inside the differing span that recurs in the other prompt at another
position (`shift_warnings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Rows(NamedTuple):
    """Padded prompts."""

    clean: Tensor
    corrupt: Tensor
    lengths: Tensor


def first_difference(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]
) -> Int[Tensor, "prompt"]:
    """First position at which the rows differ, or the number of positions."""
    differ = clean != corrupt
    return torch.where(differ.any(-1), differ.to(torch.int8).argmax(-1), clean.shape[1])


def as_tensor(values: Tensor | Sequence[Any], device: torch.device | None = None) -> Tensor:
    """A tensor as it is; a list of numbers as a tensor on the device."""
    return values if isinstance(values, Tensor) else torch.tensor(list(values), device=device)


def pad_pairs(
    clean: Tensor | Sequence[Any],
    corrupt: Tensor | Sequence[Any] | None,
    lengths: Tensor | Sequence[Any] | None,
    pad: int,
) -> Rows:
    """The prompts of every pair in two tensors of one shape; `corrupt=None` gives the clean tensor itself."""
    require_rows("clean", clean)
    if corrupt is not None:
        require_rows("corrupt", corrupt)
        require_equal_lengths(clean, corrupt)
    left = pad_rows(clean, pad)
    right = left if corrupt is None else pad_rows(corrupt, pad, left.device)
    if corrupt is clean:
        right = left.clone()  # the same rows twice are a mistake, not a task without corrupt prompts
    if lengths is None:
        lengths = [len(row) for row in clean]
    return Rows(left, right, as_tensor(lengths, left.device))


def require_rows(name: str, rows: Tensor | Sequence[Any]) -> None:
    """Prompts are rows of ids: (prompt, pos), or a list of lists."""
    if isinstance(rows, Tensor) and rows.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}; it must be (prompt, pos).")
    if not len(rows):
        raise ValueError(f"{name} has 0 prompts; a task needs at least one.")
    if not isinstance(rows, Tensor) and any(isinstance(row, int) for row in rows):
        raise ValueError(f"{name} is a list of numbers; give a list of lists, one per prompt.")


def require_equal_lengths(clean: Tensor | Sequence[Any], corrupt: Tensor | Sequence[Any]) -> None:
    """Every clean prompt has as many tokens as its corrupt one."""
    if len(clean) != len(corrupt):
        raise ValueError(
            f"clean has {len(clean)} prompts, corrupt has {len(corrupt)}. "
            "Give one corrupt prompt per clean prompt."
        )
    sizes = [(i, len(a), len(b)) for i, (a, b) in enumerate(zip(clean, corrupt))]
    bad = [(i, a, b) for i, a, b in sizes if a != b]
    if not bad:
        return
    (i, a, b), more = bad[0], ""
    if len(bad) > 1:
        listed = ", ".join(f"{j} ({x} and {y})" for j, x, y in bad[:20])
        more = f" {len(bad)} pairs differ in length: prompts {listed}{', ...' if len(bad) > 20 else ''}."
    raise ValueError(
        f"prompt {i}: clean has {a} tokens, corrupt has {b}. Patching compares positions; "
        f"use prompts of equal token length.{more}"
    )


def pad_rows(rows: Tensor | Sequence[Any], pad: int, device: torch.device | None = None) -> Tensor:
    """Rows of ids as one tensor, padded on the right. A tensor stays as it is."""
    if isinstance(rows, Tensor):
        return rows
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*_ids(row), *[pad] * (width - len(row))] for row in rows], device=device)


def pad_answers(values: Tensor | Sequence[Any], device: torch.device | None = None) -> Tensor:
    """Answers as (prompt,) or (prompt, k), −1 where a prompt has fewer than k."""
    if isinstance(values, Tensor):
        return values
    if all(isinstance(value, int) for value in values):
        return torch.tensor(list(values), device=device)
    return pad_rows([[value] if isinstance(value, int) else value for value in values], -1, device)


def pad_labels(labels: Sequence[Sequence[str]], width: int) -> tuple[tuple[str, ...], ...]:
    """Token strings by prompt and position, padded with ""."""
    return tuple((*row, *[""] * (width - len(row))) for row in labels)


def relabel(
    known: Int[Tensor, "prompt pos"],
    labels: tuple[tuple[str, ...], ...],
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"],
) -> tuple[tuple[str, ...], ...]:
    """Labels of other tokens from labelled ones; an id never seen there becomes `#id`."""
    sizes = lengths.tolist()
    names = {
        token: label
        for row, texts, size in zip(known.tolist(), labels, sizes)
        for token, label in zip(row[:size], texts)
    }
    rows = (row[:size] for row, size in zip(tokens.tolist(), sizes))
    return pad_labels([[names.get(token, f"#{token}") for token in row] for row in rows], known.shape[1])


def _ids(row: Any) -> list[int]:
    return row.tolist() if isinstance(row, Tensor) else list(row)


LEAST_RUN = 3
FARTHEST = 4


def shift_warnings(clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]) -> list[str]:
    """One line for each pair whose differing span looks shifted."""
    first = first_difference(clean, corrupt).tolist()
    width = clean.shape[1]
    last = (width - 1 - first_difference(clean.flip(-1), corrupt.flip(-1))).tolist()
    found = []
    for i, (a, b) in enumerate(zip(clean.tolist(), corrupt.tolist())):
        shift = shift_of(a[first[i] : last[i] + 1], b[first[i] : last[i] + 1])
        if shift:
            found.append(
                f"prompt {i}: between positions {first[i]} and {last[i]} the same tokens stand {abs(shift)} "
                f"position{'s' if abs(shift) > 1 else ''} apart in clean and corrupt. "
                "Patching compares positions; write the pair so that equal words stand at equal positions."
            )
    return found


def shift_of(clean: list[int], corrupt: list[int]) -> int:
    """The shift with the longest common run (0 when none beats the aligned run and `LEAST_RUN`)."""
    best, longest = 0, max(_run(clean, corrupt), LEAST_RUN - 1)
    for shift in (s for size in range(1, FARTHEST + 1) for s in (size, -size)):
        a, b = (clean, corrupt[shift:]) if shift > 0 else (clean[-shift:], corrupt)
        if (run := _run(a, b)) > longest:
            best, longest = shift, run
    return best


def _run(a: list[int], b: list[int]) -> int:
    """Length of the longest run of equal tokens at equal positions."""
    longest = run = 0
    for x, y in zip(a, b):
        run = run + 1 if x == y else 0
        longest = max(longest, run)
    return longest
