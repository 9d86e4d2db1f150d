"""Controls of a direction: random ones of equal norm, and those of shuffled labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import verb
from interp.steering._direction import Direction


@verb
def controls(parts: Sequence[Direction], seed: int = 0) -> dict[str, list[Direction | None]]:
    """By name: random directions, and those of shuffled labels; None where an extracted one has none.

    Directions that were not extracted from classes have random controls alone.

    Example:
        >>> import torch
        >>> d = interp.steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> sorted(interp.steering.controls([d], seed=0))
        ['random']
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, list[Direction | None]] = {"random": [_random(part, generator) for part in parts]}
    others = [_shuffled(part) for part in parts]
    extracted = any(part.means for part in parts)  # from classes: one prompt of each has no shuffled labels
    return drawn | ({"shuffled": others} if extracted or any(others) else {})


def random_like(vectors: Float[Tensor, "*row d"], generator: torch.Generator) -> Float[Tensor, "*row d"]:
    """Normal vectors, each of the norm of the one in its place."""
    drawn = torch.randn(vectors.shape, generator=generator, dtype=torch.float64).to(vectors)
    return drawn / drawn.norm(dim=-1, keepdim=True) * vectors.norm(dim=-1, keepdim=True)


def _random(direction: Direction, generator: torch.Generator) -> Direction:
    """Normal directions at the same places, each vector of equal norm."""
    vectors = {}
    for where, vector in direction.vectors.items():
        vectors[where] = random_like(vector, generator)
    return replace(direction, vectors=vectors, method="random", shuffled={}, means={})


def _shuffled(direction: Direction) -> Direction | None:
    """The direction of shuffled labels, at the norm of the direction; None where there is none."""
    if set(direction.shuffled) != set(direction.vectors):
        return None
    if any(
        bool(v.any()) and not bool(direction.shuffled[where].any()) for where, v in direction.vectors.items()
    ):
        return None
    vectors = {}
    for where, vector in direction.vectors.items():
        drawn = direction.shuffled[where]
        vectors[where] = drawn / drawn.norm().clamp(min=1e-30) * vector.norm()
    return replace(
        direction, vectors=vectors, method=f"{direction.method}, shuffled labels", shuffled={}, means={}
    )
