"""The edits by name: each function makes the interventions of a direction, one for each of its places.

All take `when` (which positions, see `interp.positions`) and `gate` (how strongly, see `gates`), and give a
tuple, which `steer`, `generate`, `sweep` and `bake` accept beside others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.places import Place, parse
from interp.positions import AnyPositions, everywhere
from interp.positions import parse as parse_positions
from interp.steering._direction import Direction
from interp.steering._edit_types import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Edit,
    Gradient,
    Inject,
    Rotate,
    SaeDelta,
    ScaleUnits,
    ScoreBias,
    SetUnits,
    ToAngle,
)
from interp.steering._intervention import Intervention
from interp.steering.gates import Gate

Made = tuple[Intervention, ...]
Number = float | int
AnyGate = Gate | Callable[[Tensor], Tensor] | None


def add(
    direction: Direction | Sequence[Direction],
    coefficient: Number | Float[Tensor, "row"] = 1.0,
    *,
    unit: str = "vector",
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h + coefficient · vector (CAA 2312.06681, representation engineering 2310.01405).

    coefficient: a number, or one for each row [row]. unit="vector" multiplies the vector as it is; "norm"
    counts in median norms of the activations at the place (which extraction has measured). A list of
    directions with one place each gives every row its own.
    """
    if unit not in ("vector", "norm"):
        raise ValueError(f"unit is {unit!r}; use 'vector' or 'norm'.")
    finite("coefficient", coefficient)
    several = None if isinstance(direction, Direction) else list(direction)
    first = direction if isinstance(direction, Direction) else _same_places(list(direction))
    made = []
    for where in first.places:
        rows = [first] if several is None else several
        vectors = torch.stack([_vector(each, where, unit) for each in rows])
        edit = Add(vectors if several is not None else vectors[0], coefficient)
        made.append(Intervention(where, edit, when, gate, model=first.model))
    return tuple(made)


def ablate(
    direction: Direction | Sequence[Direction],
    strength: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h without its part in the span of the direction (refusal direction, 2406.11717), times `strength`.

    A direction of layout "basis", or several directions at the same places, give a subspace; the vectors need
    not be orthogonal. strength 0 does nothing, 1 removes the part.
    """
    finite("strength", strength)
    directions = [direction] if isinstance(direction, Direction) else list(direction)
    first = _same_places(directions)
    made = []
    for where in first.places:
        basis = torch.cat([torch.atleast_2d(each.vectors[where]) for each in directions])
        if bool((basis.norm(dim=-1) == 0).any()):
            raise ValueError(f"a vector at {where} is 0: there is nothing to ablate.")
        made.append(Intervention(where, Ablate(basis, strength), when, gate, model=first.model))
    return tuple(made)


def clamp(
    direction: Direction,
    value: Number,
    *,
    bound: str | None = None,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h with its projection on the unit vector set to `value`, in the activations' units.

    bound="min" changes only what is lower, "max" only what is higher.
    """
    finite("value", value)
    if bound not in (None, "min", "max"):
        raise ValueError(f"bound is {bound!r}; use None, 'min' or 'max'.")
    return _each(direction.unit(), lambda v: Clamp(v, value, bound), when, gate)


def affine(
    site: str | Place,
    scale: Float[Tensor, "d"],
    shift: Float[Tensor, "d"],
    strength: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h ⊙ scale + shift by coordinate, at strength 1; h at strength 0 (Linear-AcT, 2410.23054)."""
    finite("strength", strength)
    finite("scale", scale)
    finite("shift", shift)
    return _one(site, Affine(scale, shift, strength), when, gate)


def rotate(
    direction: Direction,
    other: Direction,
    angle: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h turned by `angle` (radians) in the plane of two directions, from the first towards the other.

    Norms stay, and so does what is orthogonal to the plane (Angular Steering, 2510.26243).
    """
    finite("angle", angle)
    _same_places([direction, other])
    return _each(direction, lambda v, w: Rotate(v, w, angle), when, gate, other)


def to_angle(
    direction: Direction,
    other: Direction,
    angle: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h whose part in the plane of two directions points at `angle`, radians from the first direction."""
    finite("angle", angle)
    _same_places([direction, other])
    return _each(direction, lambda v, w: ToAngle(v, w, angle), when, gate, other)


def inject(
    direction: Direction, coefficient: Number = 1.0, *, start: int | str = 0, gate: AnyGate = None
) -> Made:
    """h + coefficient · the vector of each position, from position `start` on (ActAdd, 2308.10248).

    For directions of layout "positions", as `prompt_pair` makes them. start: a position, "mid" (the vectors
    centred in each prompt) or "back" (the last vector at its last token); where a prompt is shorter than the
    vectors, those that fall outside it are left out.
    """
    finite("coefficient", coefficient)
    if direction.layout != "positions":
        raise ValueError(
            f"inject needs a direction by position, this has layout {direction.layout!r}. Use add."
        )
    allowed_start(start)
    return _each(direction, lambda v: Inject(v, coefficient, start), everywhere, gate, layout="positions")


def scale_units(
    site: str | Place,
    units: Sequence[int] | None,
    factor: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Neurons of `L3.post`, or heads of `L3.z` (before W_O), times `factor`. units=None: all, or "L3H2"."""
    finite("factor", factor)
    return _units(site, units, lambda index: ScaleUnits(index, factor), when, gate)


def set_units(
    site: str | Place,
    units: Sequence[int] | None,
    value: Number | Float[Tensor, "unit"],
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Neurons of `L3.post` set to `value`, a number or one for each; or heads of `L3.z`, all coordinates."""
    finite("value", value)
    return _units(site, units, lambda index: SetUnits(index, value), when, gate)


def sae_delta(
    site: str | Place,
    encode: Callable[[Tensor], Tensor],
    decoder: Float[Tensor, "latent d"],
    change: Callable[[Tensor], Tensor],
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h + (z' − z) · decoder with z = encode(h), z' = change(z): a sparse autoencoder's latents, edited."""
    return _one(site, SaeDelta(encode, decoder, change), when, gate)


def gradient(
    site: str | Place,
    score: Callable[[Tensor], Tensor],
    step: Number = 1.0,
    *,
    normalise: bool = False,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h + step · gradient of a classifier's score at h. score: [..., d] -> [...]."""
    finite("step", step)
    return _one(site, Gradient(score, step, normalise), when, gate)


def score_bias(
    layer: int,
    source: AnyPositions,
    factor: Number,
    *,
    heads: Sequence[int] | None = None,
    when: AnyPositions = everywhere,
) -> Made:
    """Attention to the positions in `source` times `factor`, then normalised again (InstABoost, 2506.13734).

    Done as log(factor) on the scores. `when` says from which positions (destinations); heads=None: all.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"factor is {factor}; it must be finite and above 0.")
    chosen = None if heads is None else tuple(heads)
    edit = ScoreBias(parse_positions(source), math.log(factor))
    return (Intervention(Place("pattern", layer), edit, when, None, chosen),)


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
        made.append(Intervention(where, edit(*vectors), when, gate, model=direction.model))
    return tuple(made)


def _one(site: str | Place, edit: Edit, when: AnyPositions, gate: AnyGate) -> Made:
    return (Intervention(parse(site) if isinstance(site, str) else site, edit, when, gate),)


def _units(
    site: str | Place,
    units: Sequence[int] | None,
    edit: Callable[[tuple[int, ...] | None], Edit],
    when: AnyPositions,
    gate: AnyGate,
) -> Made:
    where = parse(site) if isinstance(site, str) else site
    if units is not None and not len(units):
        raise ValueError(f"units is empty at {where}. Give indices, or None for all.")
    if where.site == "post":
        return _one(where, edit(None if units is None else tuple(units)), when, gate)
    if where.site not in ("z", "q", "k", "v"):
        raise ValueError(f"{str(where)!r} has no units; use L3.post (neurons), L3.z (heads) or L3H2.")
    heads = None if units is None else tuple(units)
    return (Intervention(where, edit(None), when, gate, heads),)


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


def finite(name: str, value: Any) -> None:
    """ValueError unless a number or tensor is finite."""
    good = torch.isfinite(value).all() if isinstance(value, Tensor) else math.isfinite(value)
    if not bool(good):
        raise ValueError(f"{name} is {value}; it must be finite.")
