"""The edits by name: each function makes the interventions of a direction, one for each of its places.

All take `when` (which positions, see `interp.positions`) and `gate` (how strongly, see `gates`), and give a
tuple, which `steer`, `generate`, `sweep` and `bake` accept beside others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp._verbs import verb
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.steering._direction import Direction
from interp.steering._edit_types import (
    Ablate,
    Add,
    Clamp,
    Edit,
    Inject,
    Rotate,
    ToAngle,
)
from interp.steering._intervention import Intervention
from interp.steering._site_edits import AnyGate as AnyGate
from interp.steering._site_edits import Made as Made
from interp.steering._site_edits import Number as Number
from interp.steering._site_edits import affine as affine
from interp.steering._site_edits import features as features
from interp.steering._site_edits import finite as finite
from interp.steering._site_edits import gradient as gradient
from interp.steering._site_edits import scale_units as scale_units
from interp.steering._site_edits import score_bias as score_bias
from interp.steering._site_edits import set_features as set_features
from interp.steering._site_edits import set_units as set_units
from interp.steering._substitute import substitute as substitute

__all__ = [
    "Edit", "ablate", "add", "affine", "clamp", "features", "gradient", "inject", "rotate", "scale_units",
    "score_bias", "set_features", "set_units", "substitute", "to_angle",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__


@verb
def add(
    direction: Any,  # a Direction, or several: one for each row
    coefficient: Any = 1.0,
    *,
    unit: str = "vector",
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h + coefficient · vector (CAA 2312.06681, representation engineering 2310.01405).

    coefficient: a number, or one for each row [row]. unit="vector" multiplies the vector as it is; "norm"
    counts in median norms of the activations at the place (which extraction has measured). A list of
    directions with one place each gives every row its own.

    Example:
        >>> import torch
        >>> from interp import steering
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> made = steering.add(d, 4.0)
        >>> str(made[0].place)
        'L1.resid_pre'
    """
    if unit not in ("vector", "norm"):
        raise ValueError(f"unit is {unit!r}; use 'vector' or 'norm'.")
    finite("coefficient", coefficient)
    return added(direction, _directions(direction), coefficient, unit=unit, when=when, gate=gate)


def added(
    direction: Any,
    listed: list[Direction],
    coefficient: Any,
    *,
    unit: str = "vector",
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """`add`, also of a direction that is 0 at a layer of a sweep."""
    several = None if isinstance(direction, Direction) else listed
    first = _same_places(listed)
    made = []
    for where in first.places:
        rows = [first] if several is None else several
        vectors = torch.stack([_vector(each, where, unit) for each in rows])
        edit = Add(vectors if several is not None else vectors[0], coefficient)
        made.append(Intervention(where, edit, when, gate, model=first.model, weights=first.weights))
    return tuple(made)


@verb
def ablate(
    direction: Any,  # a Direction, or several
    strength: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h without its part in the span of the direction (refusal direction, 2406.11717), times `strength`.

    A direction of layout "basis", or several directions at the same places, give a subspace; the vectors need
    not be orthogonal. strength 0 does nothing, 1 removes the part.

    Example:
        >>> import torch
        >>> from interp import steering
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> made = steering.ablate(d)
        >>> str(made[0].place)
        'L1.resid_pre'
    """
    finite("strength", strength)
    directions = _directions(direction)
    first = _same_places(directions)
    made = []
    for where in first.places:
        basis = torch.cat([torch.atleast_2d(each.vectors[where]) for each in directions])
        if bool((basis.norm(dim=-1) == 0).any()):
            raise ValueError(f"a vector at {where} is 0: there is nothing to ablate.")
        made.append(
            Intervention(where, Ablate(basis, strength), when, gate, model=first.model, weights=first.weights)
        )
    return tuple(made)


@verb
def clamp(
    direction: Any,
    value: Number,
    *,
    bound: str | None = None,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h with its projection on the unit vector set to `value`, in the activations' units.

    Where the first token is an attention sink, many times as long as the others, leave it out:
    when=positions.window(1, None). bound="min" changes only what is lower, "max" only what is higher.

    Example:
        >>> import torch
        >>> from interp import steering
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> made = steering.clamp(d, 2.0)
        >>> str(made[0].place)
        'L1.resid_pre'
    """
    _directions([direction])
    finite("value", value)
    if bound not in (None, "min", "max"):
        raise ValueError(f"bound is {bound!r}; use None, 'min' or 'max'.")
    return _each(direction.unit(), lambda v: Clamp(v, value, bound), when, gate)


@verb
def rotate(
    direction: Direction,
    other: Direction,
    angle: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h turned by `angle` (radians) in the plane of two directions, from the first towards the other.

    Norms stay, and so does what is orthogonal to the plane (Angular Steering, 2510.26243). Where the first
    token is an attention sink, leave it out: when=positions.window(1, None).

    Example:
        >>> import torch
        >>> from interp import steering
        >>> one, two = (steering.Direction.from_tensor(row, "L1.resid_pre") for row in torch.eye(64)[:2])
        >>> len(steering.rotate(one, two, 1.5))
        1
    """
    finite("angle", angle)
    _same_places(_directions([direction, other]))
    return _each(direction, lambda v, w: Rotate(v, w, angle), when, gate, other)


@verb
def to_angle(
    direction: Direction,
    other: Direction,
    angle: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h whose part in the plane of two directions points at `angle`, radians from the first direction.

    Where the first token is an attention sink, leave it out: when=positions.window(1, None).

    Example:
        >>> import torch
        >>> from interp import steering
        >>> one, two = (steering.Direction.from_tensor(row, "L1.resid_pre") for row in torch.eye(64)[:2])
        >>> len(steering.edits.to_angle(one, two, 0.0))
        1
    """
    finite("angle", angle)
    _same_places(_directions([direction, other]))
    return _each(direction, lambda v, w: ToAngle(v, w, angle), when, gate, other)


@verb
def inject(
    direction: Direction, coefficient: Number = 1.0, *, start: int | str = 0, gate: AnyGate = None
) -> Made:
    """h + coefficient · the vector of each position, from position `start` on (ActAdd, 2308.10248).

    For directions of layout "positions", as `prompt_pair` makes them. start: a position, "mid" (the vectors
    centred in each prompt) or "back" (the last vector at its last token); where a prompt is shorter than the
    vectors, those that fall outside it are left out.

    Example:
        >>> from interp import steering
        >>> model = interp.load("tiny-ioi")
        >>> pair = steering.methods.prompt_pair(model, "Mary gave", "John gave", layer=1)
        >>> len(steering.edits.inject(pair, 2.0))
        1
    """
    _directions([direction])
    finite("coefficient", coefficient)
    if direction.layout != "positions":
        raise ValueError(
            f"inject needs a direction by position, this has layout {direction.layout!r}. Use add."
        )
    allowed_start(start)
    return _each(direction, lambda v: Inject(v, coefficient, start), everywhere, gate, layout="positions")


def _each(
    direction: Direction,
    edit: Callable[..., Edit],
    when: AnyPositions,
    gate: AnyGate,
    other: Direction | None = None,
    layout: str = "vector",
) -> Made:
    made = []
    for where, vector in direction.vectors.items():
        if direction.layout != layout:
            raise ValueError(f"this edit takes layout {layout!r}, the direction has {direction.layout!r}.")
        vectors = (vector,) if other is None else (vector, other.vectors[where])
        made.append(
            Intervention(where, edit(*vectors), when, gate, model=direction.model, weights=direction.weights)
        )
    return tuple(made)


def _directions(given: object) -> list[Direction]:
    """The directions given, one or several. ValueError for anything else, and for one that is 0."""
    listed = (
        [given] if isinstance(given, Direction) else list(given) if isinstance(given, (list, tuple)) else None
    )
    if listed is None or not all(isinstance(each, Direction) for each in listed):
        what = "a tensor" if isinstance(given, Tensor) else repr(given)
        raise ValueError(
            f"{what} is no direction. Extract one (steering.mean_difference), or use "
            "steering.Direction.from_tensor(vector, 'L3.resid_pre')."
        )
    return [each.require_any() for each in listed]


def _same_places(directions: list[Direction]) -> Direction:
    if not directions:
        raise ValueError("no directions given.")
    first = directions[0]
    for each in directions[1:]:
        if set(each.places) != set(first.places):
            raise ValueError(
                f"the directions have different places: {', '.join(map(str, first.places))} and "
                f"{', '.join(map(str, each.places))}."
            )
    return first


def _vector(direction: Direction, where: Place, unit: str) -> Tensor:
    if direction.layout != "vector":
        kind = "inject" if direction.layout == "positions" else "ablate"
        raise ValueError(f"add takes one vector a place, the direction has {direction.layout!r}. Use {kind}.")
    vector = direction.vectors[where]
    if unit == "vector":
        return vector
    if where not in direction.norms:
        raise ValueError(f"the direction has no norm at {where}. Extract it, or use unit='vector'.")
    return direction.unit().vectors[where] * direction.norms[where]


def allowed_start(start: int | str) -> None:
    """ValueError unless `inject` can start there."""
    if start not in ("mid", "back") and (isinstance(start, str) or start < 0):
        raise ValueError(
            f"start is {start!r}; use a position counted from the first real token, 0, or 'mid' or 'back'."
        )
