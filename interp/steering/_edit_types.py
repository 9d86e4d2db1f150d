"""Edits: functions h -> h' of activations [row, pos, ..., d], which change nothing in place.

Each is a frozen object with its tensors, so that it can be checked against a site, folded into weights and
printed. All are written as h + change: where the change is 0 (coefficient 0, strength 0) h' is h to the bit.
`linear` is the linear part of an affine edit, `offset` what it makes of 0; other edits have neither.

Rotations turn in the plane of `first` and `second` and keep the norm (Angular Steering, 2510.26243): its
basis is the unit vector of `first` and that of the part of `second` orthogonal to it; angles are radians
from `first` towards `second`. `ScoreBias` (InstABoost, 2506.13734): multiplying the attention that goes to
an instruction by M and normalising again equals adding log M to its scores: exp(s + log M) = M · exp(s).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp.positions import Frame, Positions
from interp.sae._dictionary import Dictionary

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
    __repr__ = brief

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
    __repr__ = brief

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
    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", self.vector.double() / self.vector.double().norm())
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
    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.scale.shape[-1])

    def __call__(self, h: Tensor) -> Tensor:
        return h + self.strength * (h * (self.scale.to(h) - 1) + self.shift.to(h))

    def linear(self, x: Tensor) -> Tensor:
        return x + self.strength * (x * (self.scale.to(x) - 1))

    def offset(self, like: Tensor) -> Tensor:
        return self.strength * self.shift.to(like)


@dataclass(frozen=True, eq=False)
class SubspaceMap(Edit):
    """h + strength · (T(x) − x) U, with x = (h − source) Uᵀ and T(x) = x Aᵀ + (target − source) Uᵀ.

    An affine map of the span of `basis` U, whose rows are orthonormal; what is orthogonal to it stays.
    """

    basis: Float[Tensor, "k d"]
    matrix: Float[Tensor, "k k"]
    source: Float[Tensor, "d"]
    target: Float[Tensor, "d"]
    strength: float | int = 1.0
    step: tuple[Tensor, Tensor] = field(init=False, repr=False)  # (A − 1)ᵀ U [k, d], what it makes of 0 [d]
    __repr__ = brief

    def __post_init__(self) -> None:
        U = self.basis.double()
        turn = self.matrix.double().T - torch.eye(len(U), dtype=torch.float64, device=U.device)
        shift = (self.target.double() - self.source.double()) @ U.T - self.source.double() @ U.T @ turn
        object.__setattr__(self, "step", (turn @ U, shift @ U))
        object.__setattr__(self, "width", U.shape[1])

    def __call__(self, h: Tensor) -> Tensor:
        return h + self.strength * ((h @ self.basis.to(h).T) @ self.step[0].to(h) + self.step[1].to(h))

    def linear(self, x: Tensor) -> Tensor:
        return x + self.strength * ((x @ self.basis.to(x).T) @ self.step[0].to(x))

    def offset(self, like: Tensor) -> Tensor:
        return self.strength * self.step[1].to(like)


@dataclass(frozen=True, eq=False)
class Inject(Edit):
    """h + coefficient · vectors[p − start] at positions p from `start` on (ActAdd, 2308.10248).

    start "mid" centres the vectors in each prompt, "back" ends them at its last token.
    """

    vectors: Float[Tensor, "pos d"]
    coefficient: float | int = 1.0
    start: int | str = 0
    __repr__ = brief

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


@dataclass(frozen=True, eq=False)
class ScaleUnits(Edit):
    """h with some coordinates times `factor`; units=None means all of them."""

    units: tuple[int, ...] | None
    factor: float | int
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        if self.units is None:
            return h * self.factor
        scale = torch.ones(h.shape[-1], dtype=h.dtype, device=h.device)
        scale[list(self.units)] = self.factor
        return h * scale

    def linear(self, x: Tensor) -> Tensor:
        return self(x)


@dataclass(frozen=True, eq=False)
class SetUnits(Edit):
    """h with some coordinates set to `value`: a number, or one for each of them."""

    units: tuple[int, ...] | None
    value: float | int | Float[Tensor, "unit"]
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        units = range(h.shape[-1]) if self.units is None else self.units
        index = torch.tensor(list(units), device=h.device)
        value = torch.as_tensor(self.value, dtype=h.dtype, device=h.device).expand(len(index))
        return h.index_copy(-1, index, value.expand(*h.shape[:-1], -1))

    def linear(self, x: Tensor) -> Tensor:
        return ScaleUnits(self.units, 0.0)(x)


@dataclass(frozen=True, eq=False)
class _InPlane(Edit):
    """An edit of h in the plane of two vectors; what is orthogonal to it stays."""

    first: Float[Tensor, "d"]
    second: Float[Tensor, "d"]
    angle: float | int
    plane: tuple[Tensor, Tensor] = field(init=False, repr=False)
    __repr__ = brief

    def __post_init__(self) -> None:
        if 0 in (float(each.double().norm()) for each in (self.first, self.second)):
            raise ValueError("a vector of the plane is 0. Give two that span a plane.")
        one = self.first.double() / self.first.double().norm()
        rest = self.second.double() - (self.second.double() @ one) * one
        if float(rest.norm()) < 1e-6 * float(self.second.double().norm()):
            raise ValueError("the two vectors of the plane are parallel. Give two that span a plane.")
        object.__setattr__(self, "plane", (one, rest / rest.norm()))
        object.__setattr__(self, "width", self.first.shape[-1])

    def parts(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The basis and the coordinates [..., 1] of h in it."""
        p, q = (each.to(h) for each in self.plane)
        return p, q, (h @ p).unsqueeze(-1), (h @ q).unsqueeze(-1)


class Rotate(_InPlane):
    """h turned by `angle` in the plane."""

    def __call__(self, h: Tensor) -> Tensor:
        p, q, x, y = self.parts(h)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return h + ((c - 1) * x - s * y) * p + (s * x + (c - 1) * y) * q

    def linear(self, x: Tensor) -> Tensor:
        return self(x)


class ToAngle(_InPlane):
    """h whose part in the plane points at `angle`, at the same length."""

    def __call__(self, h: Tensor) -> Tensor:
        p, q, x, y = self.parts(h)
        length = torch.sqrt(x * x + y * y)
        return h + (math.cos(self.angle) * length - x) * p + (math.sin(self.angle) * length - y) * q


@dataclass(frozen=True, eq=False)
class Features(Edit):
    """h + Σ (φ' − φ) d, with f the features of h, f' = change(f), and φ as they add to the site.

    What the dictionary does not reconstruct stays in h, and features that are left alone change nothing.
    """

    dictionary: Dictionary
    change: Callable[[Tensor], Tensor]  # features -> features, a new tensor
    __repr__ = brief

    def __post_init__(self) -> None:
        if self.dictionary.is_transcoder:
            raise ValueError(
                "a transcoder reads another site than it writes; an edit of features reads where it writes."
            )

    def __call__(self, h: Tensor) -> Tensor:
        f = self.dictionary.encode(h)
        changed = self.change(f)
        if changed.shape != f.shape:
            raise ValueError(
                f"change made features of shape {tuple(changed.shape)} from {tuple(f.shape)}; keep the shape."
            )
        step = self.dictionary.difference(h, changed.to(f) - f)
        return h + step.reshape(h.shape).to(h)


@dataclass(frozen=True, eq=False)
class Gradient(Edit):
    """h + step · d score / d h, where `score` maps h [..., d] to numbers [...]: uphill for step > 0."""

    score: Callable[[Tensor], Tensor]
    step: float | int = 1.0
    normalise: bool = False  # gradients of length 1 at every position
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = h.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.score(leaf).sum(), leaf)
        if self.normalise:
            slope = slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return h + self.step * slope


@dataclass(frozen=True, eq=False)
class ScoreBias(Edit):
    """Scores [row, head, dst, src] + bias on the sources in `source`, a set of absolute positions.

    bias: -inf takes the sources away; a query that sees nothing else keeps them. scale: added beside it,
    times the median of the scores that each query sees.
    """

    source: Positions
    bias: float | int
    scale: float | int = 0.0
    __repr__ = brief
    point = "attn_scores"

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError("score_bias depends on positions, so it needs a running pass: use it in steer.")

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        sources = self.source(frame.keys)[:, None, None]  # [row, 1, 1, src]
        if self.bias == -math.inf:
            without = h.masked_fill(sources, -math.inf)
            return torch.where(_seen(without).any(-1, keepdim=True), without, h)
        if not self.scale:
            return h + self.bias * sources.to(h.dtype)
        median = h.masked_fill(~_seen(h), math.nan).nanmedian(-1, keepdim=True).values
        return torch.where(sources, h + (self.bias + self.scale * median.nan_to_num()), h)


def _seen(scores: Tensor) -> Tensor:
    """Which keys are not hidden; masks are minus infinity, or the least number."""
    return scores > torch.finfo(scores.dtype).min / 2
