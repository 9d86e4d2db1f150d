"""Pairs of prompts in which the same words stand some positions apart.

Two prompts of equal length can still be misaligned, when a word more here is made up for by a word less
there. Patching a position then compares unlike things. The sign of it is a run of tokens inside the
differing span that recurs in the other prompt at another position (`shift_warnings`).
"""

from __future__ import annotations

import math

from jaxtyping import Int
from torch import Tensor

from interp.tasks._tokens import first_difference

LEAST_RUN = 3
FARTHEST = 4
_CHANCE = 0.05  # of a false alarm in a task of random tokens, about


def shift_warnings(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"], least: int = LEAST_RUN
) -> list[str]:
    """One line for each pair whose differing span looks shifted, by a run of `least` tokens or more."""
    first = first_difference(clean, corrupt).tolist()
    width = clean.shape[1]
    last = (width - 1 - first_difference(clean.flip(-1), corrupt.flip(-1))).tolist()
    found = []
    for i, (a, b) in enumerate(zip(clean.tolist(), corrupt.tolist())):
        shift = shift_of(a[first[i] : last[i] + 1], b[first[i] : last[i] + 1], least)
        if shift:
            found.append(
                f"prompt {i}: between positions {first[i]} and {last[i]} the same tokens stand {abs(shift)} "
                f"position{'s' if abs(shift) > 1 else ''} apart in clean and corrupt. "
                "Patching compares positions; write the pair so that equal words stand at equal positions."
            )
    return found


def telling_run(clean: Int[Tensor, "prompt pos"]) -> int:
    """How long a run must be to tell a shift: longer than tokens of so few kinds have by chance."""
    kinds = max(2, len(clean.unique()))
    places = 2 * FARTHEST * clean.numel()
    return max(LEAST_RUN, math.ceil(math.log(places / _CHANCE) / math.log(kinds)))


def shift_of(clean: list[int], corrupt: list[int], least: int = LEAST_RUN) -> int:
    """The shift with the longest common run (0 when none beats the aligned run and `least`)."""
    best, longest = 0, max(_run(clean, corrupt), least - 1)
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
