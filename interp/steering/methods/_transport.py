"""Gaussian optimal transport in a subspace: a whole distribution moved, not its mean alone (2603.04355).

1. Activations of the source prompts (what is) and the target prompts (what is wanted), [n, d] and [m, d].
2. U: the first k principal components of both together, centred at their common mean.
3. In U, with means and covariances of each side, the optimal map between two normal distributions:
   T(x) = mean_t + A (x - mean_s),  A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2  with S and T the covariances.
   A is symmetric and positive. What is orthogonal to U stays.
4. Several places: each map is fitted with those before it in force.

With equal covariances A is 1, and the map adds the mean difference (CAA), as far as U holds it. In one
dimension it is the quantile map of two normals. Strength s gives h + s (T(h) - h): 0 is the model to the bit.
The paper moves harmful requests onto harmless ones at one or two layers at 40 to 60 % of the depth. Derived
from its abstract; the ridge and the pooled components are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model
from interp.places import Place
from interp.positions import AnyPositions, everywhere
from interp.prompts import read
from interp.steering._direction import found_on
from interp.steering._edit_types import SubspaceMap
from interp.steering._intervention import Intervention
from interp.steering.edits import AnyGate, Made, Number, finite
from interp.steering.estimators import nonnegative
from interp.steering.methods._linear_act import _ordered, _under, coupling


@dataclass(frozen=True, eq=False)
class Transport:
    """Maps by place, in the order of the model."""

    maps: Mapping[Place, SubspaceMap]
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the model they were found on
    __repr__ = brief

    @property
    def places(self) -> tuple[Place, ...]:
        """Where there is a map."""
        return tuple(self.maps)

    def steer(self, strength: Number = 1.0, *, when: AnyPositions = everywhere, gate: AnyGate = None) -> Made:
        """The maps as interventions. strength 0 does nothing, 1 maps the source onto the target."""
        finite("strength", strength)
        return tuple(
            Intervention(where, replace(edit, strength=strength), when, gate, **self.found)
            for where, edit in self.maps.items()
        )


@verb
def gaussian_ot(
    model: Model,
    source: Any,
    target: Any,
    sites: str | Place | Sequence[str] | Sequence[Place],
    k: int = 2,
    *,
    ridge: Number = 1e-3,
    pos: AnyPositions = "last",
    batch_size: int | None = None,
) -> Transport:
    """Maps that take the activations of `source` to those of `target` (prompts each; they need no pairs).

    sites: places with units, such as "L2.resid_post". k: dimensions that are mapped. ridge: times the mean
    variance, added to every variance of both sides. pos: what is read of each prompt; "all" takes every
    token. Raises ValueError, before any pass, for a place that the model does not have or that is named
    twice, an empty class, k outside 1 to the width. Cost: a forward pass of each target prompt, and one of
    each source prompt for each place. The model is left as found.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> made = methods.gaussian_ot(model, task.clean[:4], task.clean[4:], "L1.resid_post", k=2)
        >>> len(made.steer(0.5))
        1
    """
    wanted = _ordered(model, [sites] if isinstance(sites, (str, Place)) else list(sites))
    nonnegative("ridge", ridge)
    _require_count(k, None)
    start, end = read(model, source, what="source"), read(model, target, what="target")
    if min(len(start), len(end)) < 2:
        raise ValueError(
            f"there are {len(start)} source and {len(end)} target prompts; a covariance needs two or more."
        )
    goal = activations(model, end, wanted, pos, batch_size=batch_size)
    maps: dict[Place, SubspaceMap] = {}
    for where in wanted:
        _require_count(k, goal[where].shape[1])
        now = _under(model, Transport(maps), start, where, pos, batch_size)
        maps[where] = gaussian_map(now, goal[where], k, ridge=ridge)
    return Transport(maps, found_on(model))


@verb
def gaussian_map(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], k: int = 2, *, ridge: Number = 1e-3
) -> SubspaceMap:
    """The optimal map of two sets of activations in their first k common components, in float64. Pure.

    Raises ValueError for fewer than two rows of a side, unequal widths, or k outside 1 to the width.

    Example:
        >>> import torch
        >>> up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
        >>> from interp.steering import methods
        >>> edit = methods.gaussian_map(down, up, k=8)
        >>> bool(torch.allclose(edit(down).mean(0), up.mean(0), atol=1e-5))
        True
    """
    if min(len(source), len(target)) < 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            f"the source is {list(source.shape)}, the target {list(target.shape)}; give two rows or more of "
            "each, taken at one place."
        )
    nonnegative("ridge", ridge)
    _require_count(k, source.shape[1])
    s, t = source.double(), target.double()
    pooled = torch.cat((s, t))
    U = torch.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2][:k]  # [k, d]
    S, T = (torch.atleast_2d(torch.cov((side @ U.T).T)) for side in (s, t))
    size = ridge * (S.trace() + T.trace()) / (2 * len(U)) * torch.eye(len(U)).to(S)
    return SubspaceMap(U, _optimal(S + size, T + size), s.mean(0), t.mean(0))


@verb
def sliced_wasserstein(
    first: Float[Tensor, "n d"], second: Float[Tensor, "m d"], *, n_draws: int = 128, seed: int = 0
) -> float:
    """Distance of two sets of activations: root mean over random directions of W2 squared along each.

    In the activations' units; 0 for equal sets. Two halves of one set are not at 0: compare with them. Pure,
    exact for unequal sizes. ValueError for an empty set or unequal widths. Bonneel et al. 2015.

    Example:
        >>> import torch
        >>> from interp.steering import methods
        >>> rows = torch.eye(4)
        >>> methods.sliced_wasserstein(rows, rows.flip(0)) < 1e-9
        True
    """
    if not len(first) or not len(second) or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"the sets are {list(first.shape)} and {list(second.shape)}; give rows of one width, one or more."
        )
    drawn = torch.randn(n_draws, first.shape[1], generator=torch.Generator().manual_seed(seed))
    unit = torch.nn.functional.normalize(drawn.double(), dim=1).to(first.device)
    a, b = ((side.double().to(unit.device) @ unit.T).sort(0).values for side in (first, second))
    i, j, share = (each.to(unit.device) for each in coupling(len(a), len(b)))
    return (share[:, None] * (a[i] - b[j]).square()).sum(0).mean().sqrt().item()


def _optimal(S: Float[Tensor, "k k"], T: Float[Tensor, "k k"]) -> Float[Tensor, "k k"]:
    """A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2, 1 on directions in which the source does not vary."""
    values, vectors = torch.linalg.eigh(S)
    alive = values > 1e-12 * values.amax().clamp(min=1e-300)
    root = torch.where(alive, values, 0.0).sqrt()
    inverse = torch.where(alive, 1 / root.clamp(min=1e-150), 0.0)
    half, back = (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T
    inner, turn = torch.linalg.eigh(half @ T @ half)
    A = back @ (turn * inner.clamp(min=0).sqrt()) @ turn.T @ back
    still = (vectors * (~alive).double()) @ vectors.T
    return (A + A.T) / 2 + still


def _require_count(k: int, width: int | None) -> None:
    if k < 1 or (width is not None and k > width):
        raise ValueError(f"k is {k}; give the number of dimensions to map, 1 to {width or 'the width'}.")
