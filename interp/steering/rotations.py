"""Edits that turn activations in a plane and keep their norm (Angular Steering, 2510.26243).

The plane is spanned by `first` and `second`; its basis is the unit vector of `first` and that of the part of
`second` that is orthogonal to it. Angles are in radians, from `first` towards `second`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering.edits import Edit


class _InPlane(Edit):
    first: Tensor
    second: Tensor
    plane: tuple[Tensor, Tensor]

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, eq=False)
class Rotate(_InPlane):
    """h turned by `angle` in the plane; what is orthogonal to the plane stays."""

    first: Float[Tensor, "d"]
    second: Float[Tensor, "d"]
    angle: float | int
    plane: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __call__(self, h: Tensor) -> Tensor:
        p, q, x, y = self.parts(h)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return h + ((c - 1) * x - s * y) * p + (s * x + (c - 1) * y) * q

    def linear(self, x: Tensor) -> Tensor:
        return self(x)


@dataclass(frozen=True, eq=False)
class ToAngle(_InPlane):
    """h whose part in the plane points at `angle`, at the same length."""

    first: Float[Tensor, "d"]
    second: Float[Tensor, "d"]
    angle: float | int
    plane: tuple[Tensor, Tensor] = field(init=False, repr=False)

    def __call__(self, h: Tensor) -> Tensor:
        p, q, x, y = self.parts(h)
        length = torch.sqrt(x * x + y * y)
        return h + (math.cos(self.angle) * length - x) * p + (math.sin(self.angle) * length - y) * q
