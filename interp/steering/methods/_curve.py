"""A curve through ordered points: a cubic spline with knots at t = 0, 1, 2, ..., open or closed.

`Manifold` is one through class centroids of activations; `output_curve` makes one through the classes'
output distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp.steering.edits import Number

_GRID = 200  # points of the curve for each class, among which the nearest is looked for


@dataclass(frozen=True, eq=False)
class Curve:
    """A spline through `knots` [class, k], one a class, in their order. bends: second derivatives there."""

    labels: tuple[str, ...]
    knots: Float[Tensor, "class k"]
    bends: Float[Tensor, "class k"]
    periodic: bool
    __repr__ = brief

    @property
    def length(self) -> float:
        """The largest t: that of the last class, or of the first one come round again."""
        return float(len(self.labels) if self.periodic else len(self.labels) - 1)

    def curve(self, t: Any) -> Float[Tensor, "*t k"]:
        """Points of the curve, in the components. ValueError for t outside an open curve, or not finite."""
        t = torch.as_tensor(t, dtype=torch.float64)
        if not bool(torch.isfinite(t).all()):
            raise ValueError(f"t is {t.tolist()}; give finite numbers.")
        if not self.periodic and (bool((t < 0).any()) or bool((t > self.length).any())):
            raise ValueError(f"t runs from 0 to {self.length:g} on an open curve; got {t.tolist()}.")
        n = len(self.labels)
        t = t % n if self.periodic else t
        i = t.floor().long().clamp(max=n - 1 if self.periodic else n - 2)
        j, u = (i + 1) % n, (t - i)[..., None]
        bend = ((1 - u) ** 3 - (1 - u)) * self.bends[i] + (u**3 - u) * self.bends[j]
        return (1 - u) * self.knots[i] + u * self.knots[j] + bend / 6

    def chord(self, start: Number, end: Number, u: Any) -> Float[Tensor, "*u k"]:
        """Points of the straight line between two points of the curve, u from 0 to 1, in the components."""
        u = torch.as_tensor(u, dtype=torch.float64)[..., None]
        return (1 - u) * self.curve(start) + u * self.curve(end)

    def nearest(self, points: Float[Tensor, "*row k"]) -> tuple[Float[Tensor, "*row"], Float[Tensor, "*row"]]:
        """Distance to the curve, and the t where it is nearest, among 200 points of it for each class."""
        t = torch.linspace(0, self.length, _GRID * len(self.labels), dtype=torch.float64)
        distance, at = torch.cdist(points.double().reshape(-1, points.shape[-1]), self.curve(t)).min(1)
        return distance.reshape(points.shape[:-1]), t[at].reshape(points.shape[:-1])

    def off_manifold(self, points: Float[Tensor, "*row k"]) -> Float[Tensor, "*row"]:
        """Distance to the nearest point of the curve, in the knots' units."""
        return self.nearest(points)[0]


def bends(knots: Float[Tensor, "class k"], periodic: bool) -> Float[Tensor, "class k"]:
    """Second derivatives of the cubic spline with knots at 0, 1, 2, ...; 0 at both ends of an open one."""
    n = len(knots)
    system, right = torch.eye(n, dtype=torch.float64), torch.zeros_like(knots)
    for i in range(n) if periodic else range(1, n - 1):
        before, after = (i - 1) % n, (i + 1) % n
        system[i] = 0.0
        system[i, before] += 1.0
        system[i, i] += 4.0
        system[i, after] += 1.0
        right[i] = 6 * (knots[before] - 2 * knots[i] + knots[after])
    return torch.linalg.solve(system, right)
