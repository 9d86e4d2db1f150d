"""Selective steering: a rotation in one plane, at the layers where the classes point opposite ways.

1. Candidate of each place: the mean of the positive activations, each at length 1, minus that of the negative
   ones (the means at length 1 too).
2. b1 is the candidate with the largest mean cosine to all candidates; b2 is the first principal component of
   the candidates, centred, made orthogonal to b1. Its sign: from the first place towards the last.
3. A place is discriminative where the mean projections of the two classes on b1 have opposite signs.
4. `rotate` turns h by an angle: h - Ph + [b1 b2] R [b1 b2]' h. `to_angle` sets the angle: the part of h in
   the plane keeps its length and points at the angle.

Sign: angle 0 is b1, from the negative class to the positive one; pi points away from it. Angles are in
radians, from b1 towards b2. Norms stay. Angular steering: 2510.26243. Selective steering: 2601.19375.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import Layers, vector_places
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._direction import Direction, found_on
from interp.steering.edits import AnyGate, Made, Number, rotate, to_angle
from interp.steering.gates import Gate


@dataclass(frozen=True, eq=False)
class SteeringPlane:
    """A plane of the stream and where to turn in it.

    first, second: b1 and b2, orthonormal [d]. projections: of the mean positive and mean negative activation
    (each at length 1) on b1, by place. opposite: the places where their signs differ. chosen: where b1 is
    from.
    """

    first: Float[Tensor, "d"]
    second: Float[Tensor, "d"]
    places: tuple[Place, ...]
    projections: Float[Tensor, "side place"]
    opposite: Bool[Tensor, "place"]
    chosen: Place
    model: str | None = None
    weights: tuple[float, ...] = field(default=(), repr=False)  # as of a Direction
    __repr__ = brief

    @property
    def discriminative(self) -> tuple[Place, ...]:
        """The places where the classes lie on opposite sides."""
        return tuple(where for where, is_so in zip(self.places, self.opposite.tolist()) if is_so)

    def rotate(
        self,
        angle: Number,
        *,
        at: Iterable[Place] | None = None,
        when: AnyPositions = everywhere,
        gate: AnyGate = None,
    ) -> Made:
        """Turn by `angle` at the discriminative places, or those given. ValueError where there are none."""
        return rotate(*self._axes(at), angle, when=when, gate=gate)

    def to_angle(
        self,
        angle: Number,
        *,
        adaptive: bool = False,
        at: Iterable[Place] | None = None,
        when: AnyPositions = everywhere,
        gate: AnyGate = None,
    ) -> Made:
        """Point at `angle`. adaptive: only tokens with a projection on b1 above 0. ValueError as `rotate`."""
        if adaptive and gate is not None:
            raise ValueError("adaptive=True is a gate of its own; give either it or gate=.")
        return to_angle(*self._axes(at), angle, when=when, gate=self._towards() if adaptive else gate)

    def _axes(self, at: Iterable[Place] | None) -> tuple[Direction, Direction]:
        chosen = self.discriminative if at is None else tuple(at)
        if not chosen:
            raise ValueError(
                "no place is discriminative: at all of them the classes project on b1 with the same sign. "
                "Name places with at=, or use other prompts."
            )
        one, two = (dict.fromkeys(chosen, axis) for axis in (self.first, self.second))
        first, second = (Direction(axis, model=self.model, weights=self.weights) for axis in (one, two))
        return first, second

    def _towards(self) -> Gate:
        first = self.first
        return Gate(lambda h: h @ first.to(h) > 0, name="adaptive")


@verb
def steering_plane(
    model: Model,
    positive: Any,
    negative: Any,
    *,
    layer: Layers = None,
    site: str = "resid_pre",
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> SteeringPlane:
    """The plane of two classes of prompts (strings, token ids or a Task each) over several layers.

    Raises ValueError, before any pass, for fewer than two layers, an empty class, or a place that the model
    does not have. Cost: one forward pass of each prompt as far as the last layer. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp.steering import methods
        >>> plane = methods.steering_plane(model, up, down, layer=[1, 2])
        >>> tuple(plane.first.shape)
        (64,)
    """
    facts = anatomy(model)
    wanted = vector_places(facts, layer, site)
    _require_two(len(wanted))
    up, down = read(model, positive, what="positive"), read(model, negative, what="negative")
    above, below = (activations(model, p, wanted, pos, batch_size=batch_size) for p in (up, down))
    on, off = (torch.stack([rows[where] for where in wanted]) for rows in (above, below))
    first, second, chosen = plane(candidates(on, off))
    seen = projections(on, off, first)
    return SteeringPlane(
        first.to(on), second.to(on), wanted, seen, seen.prod(0) < 0, wanted[chosen], **found_on(model)
    )


def candidates(
    positive: Float[Tensor, "place n d"], negative: Float[Tensor, "place m d"]
) -> Float[Tensor, "place d"]:
    """Difference of the classes' mean directions at each place: means of unit activations, at length 1."""
    up, down = (_unit(_unit(rows.double()).mean(1)) for rows in (positive, negative))
    return up - down


def plane(found: Float[Tensor, "place d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"], int]:
    """b1, b2 (orthonormal) and the place of b1, from the candidates. ValueError for fewer than two."""
    _require_two(len(found))
    found = found.double()
    units = _unit(found)
    chosen = int((units @ units.T).mean(1).argmax())
    first = units[chosen]
    second = torch.linalg.svd(found - found.mean(0), full_matrices=False)[2][0]
    second = second if float((found[-1] - found[0]) @ second) >= 0 else -second
    rest = second - (second @ first) * first
    if float(rest.norm()) < 1e-6:
        raise ValueError(
            "the candidates of all layers are parallel, so they span no plane. Use more layers or prompts."
        )
    return first, rest / rest.norm(), chosen


def projections(
    positive: Float[Tensor, "place n d"], negative: Float[Tensor, "place m d"], first: Float[Tensor, "d"]
) -> Float[Tensor, "side place"]:
    """Mean projection of the activations at length 1 on b1: the positive class, then the negative one."""
    return torch.stack([(_unit(rows.double()) @ first.double()).mean(1) for rows in (positive, negative)])


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-30)


def _require_two(n: int) -> None:
    if n < 2:
        raise ValueError(f"a plane needs candidates of two layers or more, got {n}. Give layer=None for all.")
