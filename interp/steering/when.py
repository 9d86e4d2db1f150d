"""When an intervention acts: sets of positions, with & | and ~.

Positions are absolute and count from the first real token of each row: a cache or padding does not move them
(see `frame`). A prompt of n tokens has positions 0 to n-1.

| when            | positions                                                                  |
|-----------------|----------------------------------------------------------------------------|
| everywhere      | all                                                                        |
| prompt_only     | 0 to n-1                                                                   |
| generated       | n-1 and after: the last prompt token makes the first new token             |
| at(3, -1)       | those; negative ones count from the end of the prompt                      |
| window(a, b)    | a to b-1; negative ends count from the end of the prompt, None is open     |
| tokens(5, 7)    | where the token is one of these ids                                        |
| mask(t)         | where t [pos] or [row, pos] is True; nothing beyond its end                |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.steering.frame import Frame

Rule = Callable[[Frame], Tensor]


@dataclass(frozen=True, eq=False)
class When:
    """A set of positions. Call it on a frame for a mask [row, pos]."""

    rule: Rule
    name: str
    first: int = 0  # the lowest index counted from the end of the prompt, for checks
    last: int = -1  # the highest index counted from its start; -1 where there is none
    always: bool = False

    def __call__(self, frame: Frame) -> Bool[Tensor, "row pos"]:
        return self.rule(frame)

    def __and__(self, other: When) -> When:
        return self._joined(other, lambda f: self(f) & other(f), "&", self.always and other.always)

    def __or__(self, other: When) -> When:
        return self._joined(other, lambda f: self(f) | other(f), "|", self.always or other.always)

    def __invert__(self) -> When:
        return When(lambda frame: ~self(frame), f"~({self.name})", self.first, self.last)

    def __repr__(self) -> str:
        return self.name

    def check(self, shortest: int, longest: int | None = None) -> None:
        """ValueError for a position outside prompts of these lengths (and what is generated after them)."""
        if -self.first > shortest:
            raise ValueError(
                f"{self.name}: position {self.first} counts from the end of a prompt of {shortest} tokens."
            )
        if longest is not None and self.last >= longest:
            raise ValueError(f"{self.name}: position {self.last} is beyond the {longest} tokens of the run.")

    def _joined(self, other: When, rule: Rule, sign: str, always: bool) -> When:
        name = f"({self.name} {sign} {other.name})"
        return When(rule, name, min(self.first, other.first), max(self.last, other.last), always)


everywhere = When(lambda f: torch.ones(f.size, dtype=torch.bool, device=f.device), "everywhere", always=True)
prompt_only = When(lambda f: f.positions < f.lengths, "prompt_only")
generated = When(lambda f: f.positions >= f.lengths - 1, "generated")


def at(*positions: int) -> When:
    """The given positions; -1 is the last token of the prompt. ValueError for none."""
    if not positions:
        raise ValueError("at() needs at least one position, as in at(3) or at(-1).")
    index = torch.tensor(positions)

    def rule(frame: Frame) -> Tensor:
        wanted = index.to(frame.device).expand(frame.size[0], -1)  # [row, position]
        if low < 0:
            wanted = torch.where(wanted < 0, wanted + frame.lengths, wanted)
        return (frame.positions[:, :, None] == wanted[:, None]).any(-1)

    low, high = min(positions), max(positions)
    return When(rule, f"at({', '.join(map(str, positions))})", min(low, 0), high)


def window(start: int | None, stop: int | None) -> When:
    """Positions start to stop-1. ValueError for an empty window."""
    if start is not None and stop is not None and (start < 0) == (stop < 0) and start >= stop:
        raise ValueError(f"window({start}, {stop}) is empty. Give start < stop.")
    first = 0 if start is None else start

    def rule(frame: Frame) -> Tensor:
        low = first + frame.lengths if first < 0 else first
        inside = frame.positions >= low
        if stop is None:
            return inside
        return inside & (frame.positions < (stop + frame.lengths if stop < 0 else stop))

    ends = [end for end in (start, stop) if end is not None]
    return When(rule, f"window({start}, {stop})", min([0, *ends]), max(first, -1))


def tokens(*ids: int) -> When:
    """Positions whose token is one of the ids."""
    if not ids:
        raise ValueError("tokens() needs at least one token id.")
    wanted = torch.tensor(ids)
    return When(lambda f: torch.isin(f.tokens, wanted.to(f.device)), f"tokens({', '.join(map(str, ids))})")


def mask(marks: Bool[Tensor, "*row pos"]) -> When:
    """Positions that are marked, [pos] for every row or [row, pos]."""
    if marks.dtype != torch.bool or marks.ndim not in (1, 2):
        raise ValueError(
            f"mask needs a bool tensor [pos] or [row, pos], got {marks.dtype} {tuple(marks.shape)}."
        )
    table = marks if marks.ndim == 2 else marks[None]

    def rule(frame: Frame) -> Tensor:
        rows = table.to(frame.device)
        if len(rows) not in (1, frame.size[0]):
            raise ValueError(f"mask(...) has {len(rows)} rows, the batch {frame.size[0]}. Give one a row.")
        rows = rows.expand(frame.size[0], -1)
        inside = (frame.positions >= 0) & (frame.positions < rows.shape[1])
        return rows.gather(1, frame.positions.clamp(0, rows.shape[1] - 1)) & inside

    return When(rule, f"mask({int(table.sum())} marked)")
