"""Edits of single coordinates: neurons of `post`, or all coordinates of heads at `z`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering.edits import Edit


@dataclass(frozen=True, eq=False)
class ScaleUnits(Edit):
    """h with some coordinates times `factor`; units=None means all of them."""

    units: tuple[int, ...] | None
    factor: float | int

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

    def __call__(self, h: Tensor) -> Tensor:
        units = range(h.shape[-1]) if self.units is None else self.units
        index = torch.tensor(list(units), device=h.device)
        value = torch.as_tensor(self.value, dtype=h.dtype, device=h.device).expand(len(index))
        return h.index_copy(-1, index, value.expand(*h.shape[:-1], -1))

    def linear(self, x: Tensor) -> Tensor:
        return ScaleUnits(self.units, 0.0)(x)
