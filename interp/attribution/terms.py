"""The estimate of one site at one layer from the slope of the metric: what every method shares.

    estimate = (source - base) · coefficient

summed over the vector, and over whatever a cell covers beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from interp.attribution.tables import Place, dot, live, with_totals


@runtime_checkable
class Term(Protocol):
    """One place: whose slope it needs, and its table of estimates from it."""

    @property
    def place(self) -> Place: ...

    @property
    def needs(self) -> Place: ...

    def table(self, slope: Tensor) -> Tensor: ...  # [prompt, axis + 1, ...], float64


@dataclass(frozen=True, eq=False)
class Linear:
    """First order: the activation's change times the slope in it."""

    place: Place
    source: Tensor
    base: Tensor
    first: Tensor  # first position at which the runs can differ, [prompt]

    @property
    def needs(self) -> Place:
        return self.place

    def table(self, slope: Tensor) -> Tensor:
        site = self.place[0]
        n_pos = slope.shape[2] if site == "pattern" else slope.shape[1]
        estimate = dot(site, self.source - self.base, slope)
        return with_totals(estimate.masked_fill(~live(site, self.first, n_pos), 0.0))
