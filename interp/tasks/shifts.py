"""Is the differing span of a pair aligned: do equal tokens stand at equal positions?

Two prompts of equal length can still be misaligned, when a word more here is made up for by a word less
there. Then the same words stand one position apart, and patching a position compares unlike things. The
sign of it is a run of tokens inside the differing span that recurs in the other prompt at another
position.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from interp.tasks.pairs import first_difference

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
