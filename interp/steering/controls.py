"""Controls of a direction: what any direction of that length does, and what chance finds in the same data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from interp.steering.direction import Direction


def controls(parts: Sequence[Direction], seed: int) -> dict[str, list[Direction | None]]:
    """By name: random directions, and those of shuffled labels where the directions have them."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Direction | None]] = {"random": [random(part, generator) for part in parts]}
    others = [shuffled(part) for part in parts]
    return found | ({"shuffled": others} if any(other is not None for other in others) else {})


def random(direction: Direction, generator: torch.Generator) -> Direction:
    """Normal directions at the same places, each vector of equal norm."""
    vectors = {}
    for where, vector in direction.vectors.items():
        drawn = torch.randn(vector.shape, generator=generator, dtype=torch.float64).to(vector)
        vectors[where] = drawn / drawn.norm(dim=-1, keepdim=True) * vector.norm(dim=-1, keepdim=True)
    return replace(direction, vectors=vectors, method="random", shuffled={}, means={})


def shuffled(direction: Direction) -> Direction | None:
    """The direction of shuffled labels, at the norm of the direction; None where there is none."""
    if set(direction.shuffled) != set(direction.vectors):
        return None
    vectors = {}
    for where, vector in direction.vectors.items():
        drawn = direction.shuffled[where]
        vectors[where] = drawn / drawn.norm().clamp(min=1e-30) * vector.norm()
    return replace(
        direction, vectors=vectors, method=f"{direction.method}, shuffled labels", shuffled={}, means={}
    )
