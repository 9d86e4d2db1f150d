"""Edits: functions h -> h' of activations [row, pos, ..., d], which change nothing in place.

Each is a frozen object with its tensors, so that it can be checked against a site, folded into weights and
printed. All are written as h + change: where the change is 0 (coefficient 0, strength 0) h' is h to the bit.
`linear` is the linear part of an affine edit, `offset` what it makes of 0; other edits have neither.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering.frame import Frame

Rows = Float[Tensor, "*lead d"]


class Edit(ABC):
    """A change of activations. `width` is the length of the vectors it fits, None for any.

    `n_rows` is the number of rows (prompts) of a batch that it fits, None for any.
    """

    width: int | None = None
    n_rows: int | None = None
    point: str | None = None  # a hook point of attention instead of the site's own

    @abstractmethod
    def __call__(self, h: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The edited activations."""

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        """The edit where it also depends on the position."""
        return self(h)

    def linear(self, x: Float[Tensor, "*any d"]) -> Tensor | None:
        """The linear part applied to the last dim, or None if the edit is not affine."""
        return None

    def offset(self, like: Tensor) -> Tensor:
        """What the edit makes of 0, in the dtype of `like`."""
        return self(torch.zeros(like.shape[-1], dtype=like.dtype, device=like.device))


def rowwise(value: Tensor, h: Tensor, vector: bool) -> Tensor:
    """A tensor by row ([row] or [row, d]) so that it multiplies h [row, ..., d]."""
    lead = value.shape[:1] + (1,) * (h.ndim - 2)
    return value.to(h).reshape(*lead, -1 if vector else 1)


@dataclass(frozen=True, eq=False)
class Add(Edit):
    """h + coefficient · vector. vector [d], or [row, d]; coefficient a number, or [row]: one for each row."""

    vector: Rows
    coefficient: float | int | Float[Tensor, "row"] = 1.0
    step: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        c, v = self.coefficient, self.vector
        by_row = isinstance(c, Tensor)
        step = c.to(v)[:, None] * v if by_row else c * v  # [d] or [row, d]
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "width", v.shape[-1])
        object.__setattr__(self, "n_rows", len(step) if step.ndim == 2 else None)

    def __call__(self, h: Tensor) -> Tensor:
        return h + (self.step.to(h) if self.step.ndim == 1 else rowwise(self.step, h, vector=True))

    def linear(self, x: Tensor) -> Tensor | None:
        return x if self.step.ndim == 1 else None

    def offset(self, like: Tensor) -> Tensor:
        return self.step.to(like)


@dataclass(frozen=True, eq=False)
class Ablate(Edit):
    """h − strength · its projection on the span of `basis` [k, d], whose rows need not be orthogonal."""

    basis: Float[Tensor, "k d"]
    strength: float | int = 1.0
    span: Tensor = field(init=False, repr=False)  # orthonormal rows [rank, d]
    _cast: list[Tensor] = field(init=False, repr=False)  # the same in the dtype and on the device last used

    def __post_init__(self) -> None:
        object.__setattr__(self, "span", orthonormal(self.basis))
        object.__setattr__(self, "width", self.basis.shape[-1])
        object.__setattr__(self, "_cast", [self.span])

    def __call__(self, h: Tensor) -> Tensor:
        q = self._cast[0]
        if q.dtype != h.dtype or q.device != h.device:
            q = self._cast[0] = self.span.to(h)
        return torch.sub(h, (h @ q.T) @ q, alpha=self.strength)

    def linear(self, x: Tensor) -> Tensor:
        return self(x)


@dataclass(frozen=True, eq=False)
class Clamp(Edit):
    """h with its length along the unit vector set to `value`; or only kept at or above (below) it."""

    vector: Float[Tensor, "d"]
    value: float | int
    bound: str | None = None  # None sets; "min" raises what is lower; "max" lowers what is higher
    unit: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self.vector / self.vector.norm())
        object.__setattr__(self, "width", self.vector.shape[-1])

    def __call__(self, h: Tensor) -> Tensor:
        u = self.unit.to(h)
        change = self.value - h @ u  # [row, pos, ...]
        if self.bound is not None:
            change = change.clamp(min=0) if self.bound == "min" else change.clamp(max=0)
        return h + change.unsqueeze(-1) * u

    def linear(self, x: Tensor) -> Tensor | None:
        u = self.unit.to(x)
        return None if self.bound else x - (x @ u).unsqueeze(-1) * u


@dataclass(frozen=True, eq=False)
class Affine(Edit):
    """h + strength · (h ⊙ (scale − 1) + shift), by coordinate (Linear-AcT, 2410.23054)."""

    scale: Float[Tensor, "d"]
    shift: Float[Tensor, "d"]
    strength: float | int = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.scale.shape[-1])

    def __call__(self, h: Tensor) -> Tensor:
        return h + self.strength * (h * (self.scale.to(h) - 1) + self.shift.to(h))

    def linear(self, x: Tensor) -> Tensor:
        return x + self.strength * (x * (self.scale.to(x) - 1))

    def offset(self, like: Tensor) -> Tensor:
        return self.strength * self.shift.to(like)


@dataclass(frozen=True, eq=False)
class Inject(Edit):
    """h + coefficient · vectors[p − start] at positions p from `start` on (ActAdd, 2308.10248).

    start "mid" centres the vectors in each prompt, "back" ends them at its last token.
    """

    vectors: Float[Tensor, "pos d"]
    coefficient: float | int = 1.0
    start: int | str = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.vectors.shape[-1])

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError("inject adds by position, so it needs a running pass: use it in steer or generate.")

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        index = frame.positions - self._first(frame)  # [row, pos]
        inside = (index >= 0) & (index < len(self.vectors))
        step = self.coefficient * self.vectors.to(h)[index.clamp(0, len(self.vectors) - 1)]  # [row, pos, d]
        step = step * inside.unsqueeze(-1)
        return h + step.reshape(*step.shape[:2], *(1,) * (h.ndim - 3), step.shape[-1])

    def _first(self, frame: Frame) -> int | Tensor:
        """The position of the first vector, by row [row, 1] where it depends on the prompt's length."""
        n = len(self.vectors)
        if isinstance(self.start, int):
            return self.start
        return frame.lengths // 2 - n // 2 if self.start == "mid" else frame.lengths - n


def orthonormal(vectors: Float[Tensor, "k d"]) -> Float[Tensor, "rank d"]:
    """Orthonormal rows with the same span, computed in float64; dependent rows fall out."""
    units = vectors.double() / vectors.double().norm(dim=-1, keepdim=True)
    _, sizes, rows = torch.linalg.svd(units, full_matrices=False)
    return rows[sizes > 1e-10 * sizes[0]]
