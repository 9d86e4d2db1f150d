"""Edits of a site that need no direction: affine maps, units, dictionaries, gradients, attention scores.

They are public as `interp.steering.edits`, beside those that take a direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp._verbs import verb
from interp.places import Place, parse
from interp.positions import AnyPositions, everywhere
from interp.positions import parse as parse_positions
from interp.sae import Dictionary
from interp.sae._site import require_place
from interp.steering._edit_types import Affine, Edit, Features, Gradient, ScaleUnits, ScoreBias, SetUnits
from interp.steering._intervention import Intervention
from interp.steering.gates import Gate

Made = tuple[Intervention, ...]
Number = float | int
AnyGate = Gate | Callable[[Tensor], Tensor] | None


@verb
def affine(
    site: str | Place,
    scale: Float[Tensor, "d"],
    shift: Float[Tensor, "d"],
    strength: Number = 1.0,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h ⊙ scale + shift by coordinate, at strength 1; h at strength 0 (Linear-AcT, 2410.23054).

    Example:
        >>> import torch
        >>> from interp import steering
        >>> made = steering.edits.affine("L1.resid_pre", torch.ones(64), torch.zeros(64))
        >>> len(made)
        1
    """
    finite("strength", strength)
    finite("scale", scale)
    finite("shift", shift)
    return _one(site, Affine(scale, shift, strength), when, gate)


@verb
def scale_units(
    site: str | Place,
    units: Sequence[int] | None,
    factor: Number,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Neurons of `L3.post`, or heads of `L3.z` (before W_O), times `factor`. units=None: all, or "L3H2".

    Example:
        >>> from interp import steering
        >>> made = steering.edits.scale_units("L1.z", [0, 2], 0.0)
        >>> made[0].heads
        (0, 2)
    """
    finite("factor", factor)
    return _units(site, units, lambda index: ScaleUnits(index, factor), when, gate)


@verb
def set_units(
    site: str | Place,
    units: Sequence[int] | None,
    value: Number | Float[Tensor, "unit"],
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Neurons of `L3.post` set to `value`, a number or one for each; or heads of `L3.z`, all coordinates.

    Example:
        >>> from interp import steering
        >>> len(steering.edits.set_units("L1.post", [3, 7], 1.0))
        1
    """
    finite("value", value)
    return _units(site, units, lambda index: SetUnits(index, value), when, gate)


@verb
def features(
    dictionary: Dictionary,
    change: Callable[[Tensor], Tensor],
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Features of a dictionary edited at its place: h + Σ (φ' − φ) d, with f' = change(f) (`interp.sae`).

    change: from features [..., feature] to features, a new tensor. What the dictionary does not reconstruct
    stays.

    Example:
        >>> import torch
        >>> from interp import sae, steering
        >>> eye = torch.eye(64)
        >>> d = sae.Dictionary(eye, torch.zeros(64), eye, torch.zeros(64), place="L1.resid_pre")
        >>> len(steering.edits.features(d, lambda f: 2 * f))
        1
    """
    return _one(require_place(dictionary), Features(dictionary, change), when, gate)


@verb
def set_features(
    dictionary: Dictionary,
    features: Sequence[int],
    value: Number = 0.0,
    *,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """Features of a dictionary set to a value: 0 ablates them, another clamps them. Raises ValueError for
    none.

    Example:
        >>> import torch
        >>> from interp import sae, steering
        >>> eye = torch.eye(64)
        >>> d = sae.Dictionary(eye, torch.zeros(64), eye, torch.zeros(64), place="L1.resid_pre")
        >>> edit = steering.edits.set_features(d, [3], 8.0)[0].edit
        >>> edit(torch.ones(64))[2:5].tolist()
        [1.0, 8.0, 1.0]
    """
    finite("value", value)
    outside = [each for each in features if not 0 <= each < dictionary.n_features]
    if outside or not features:
        raise ValueError(f"features is {list(features)}; give some of 0 to {dictionary.n_features - 1}.")
    index = torch.tensor(list(features))

    def change(f: Tensor) -> Tensor:
        return f.index_fill(-1, index.to(f.device), value)

    return _one(require_place(dictionary), Features(dictionary, change), when, gate)


@verb
def gradient(
    site: str | Place,
    score: Callable[[Tensor], Tensor],
    step: Number = 1.0,
    *,
    normalise: bool = False,
    when: AnyPositions = everywhere,
    gate: AnyGate = None,
) -> Made:
    """h + step · gradient of a classifier's score at h. score: [..., d] -> [...].

    Example:
        >>> from interp import steering
        >>> len(steering.edits.gradient("L1.resid_pre", lambda h: h.square().sum(-1), -0.1))
        1
    """
    finite("step", step)
    return _one(site, Gradient(score, step, normalise), when, gate)


@verb
def score_bias(
    layer: int,
    source: AnyPositions,
    factor: Number,
    *,
    heads: Sequence[int] | None = None,
    when: AnyPositions = everywhere,
) -> Made:
    """Attention to the positions in `source` times `factor`, then normalised again (InstABoost, 2506.13734).

    Done as log(factor) on the scores; a factor of 0 takes the positions away (a query that sees nothing else
    keeps them), and rows of attention still add up to 1. `when` says from which positions (destinations);
    heads=None: all.

    Example:
        >>> from interp import steering
        >>> from interp import positions
        >>> len(steering.edits.score_bias(1, positions.window(0, 3), 5.0))
        1
    """
    finite("factor", factor)
    if not factor >= 0:
        raise ValueError(f"factor is {factor}; it must be finite, and 0 or more.")
    chosen = None if heads is None else tuple(heads)
    edit = ScoreBias(parse_positions(source), math.log(factor) if factor else -math.inf)
    return (Intervention(Place("pattern", layer), edit, when, None, chosen),)


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


def finite(name: str, value: Any) -> None:
    """ValueError unless it is a finite number, or a tensor of such."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number, Tensor)):
        raise ValueError(f"{name} is {value!r}; it must be a number.")
    good = torch.isfinite(value).all() if isinstance(value, Tensor) else math.isfinite(value)
    if not bool(good) or (isinstance(value, Tensor) and value.is_complex()):
        raise ValueError(f"{name} is {value}; it must be finite.")
