"""A subspace of an activation, and the exchange of what it holds.

1. A basis B [width, rank] has orthonormal columns: lengths and angles in it are those of the activation.
2. The interchange puts the source run's part in the subspace in the place of the run's own:
   h' = h + ((h_source - h) B) Bᵀ. Of rank 1 this is patching along a direction; of full rank, patching.
3. A `Flow` bends the activation by invertible layers first, and exchanges coordinates there.

Interchange interventions: Geiger et al. 2303.02536 (distributed alignment search).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp._brief import brief
from interp._verbs import settings, verb
from interp.models import Anatomy
from interp.models.places import place, width
from interp.places import HEAD_SITES, Place, parse

TOLERANCE = 1e-5  # of BᵀB against 1


def spot(where: str | Place, facts: Anatomy) -> Place:
    """A place of this model whose activation is one vector. ValueError for any other."""
    found = place(where, facts)
    if (
        found.site == "pattern"
        or found.neuron is not None
        or (found.site in HEAD_SITES and found.head is None)
    ):
        raise ValueError(f"{found}: a subspace lies in the stream, in one head (L3H2, L3H2.q) or in L3.post.")
    return found


@verb
def orthonormal(matrix: Float[Tensor, "width rank"]) -> Float[Tensor, "width rank"]:
    """An orthonormal basis of the span of the columns of a matrix, by QR with signs fixed.

    Raises ValueError for more columns than rows, and for columns that depend on one another.

    Example:
        >>> import torch
        >>> B = interp.subspaces.orthonormal(torch.tensor([[3.0, 1.0], [0.0, 2.0], [4.0, 0.0]]))
        >>> bool(torch.allclose(B.T @ B, torch.eye(2), atol=1e-6))
        True
    """
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(f"a basis is a matrix [width, rank], got {list(matrix.shape)}.")
    if matrix.shape[1] > matrix.shape[0]:
        raise ValueError(
            f"{matrix.shape[1]} columns do not fit into {matrix.shape[0]} dimensions; give a basis [width, "
            "rank] with rank at most width."
        )
    half = matrix.dtype in (torch.float16, torch.bfloat16)  # which QR does not know
    Q, R = torch.linalg.qr(matrix.float() if half else matrix)
    sizes = R.diagonal().detach().abs()
    if not bool(sizes.isfinite().all()) or float(sizes.min()) <= 1e-6 * float(sizes.max()):
        raise ValueError(
            "the columns of the matrix depend on one another, or are not finite: they span less."
        )
    return Q * torch.where(R.diagonal() < 0, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Flow:
    """Additive coupling layers: h -> f(h), exactly invertible; nothing at all with the last weights at zero.

    Each layer adds to one half of the coordinates a network of the other half; halves take turns.
    """

    rotation: Float[Tensor, "width width"]  # orthogonal: the coordinates that the layers work in
    weights: tuple[tuple[Tensor, Tensor, Tensor], ...]  # by layer: W_in [half, hidden], b [hidden], W_out
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        x = h @ self.rotation
        for number, weights in enumerate(self.weights):
            x = _couple(x, number, weights, 1.0)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        for number in reversed(range(len(self.weights))):
            x = _couple(x, number, self.weights[number], -1.0)
        return x @ self.rotation.T


def _couple(x: Tensor, number: int, weights: tuple[Tensor, Tensor, Tensor], sign: float) -> Tensor:
    W_in, b, W_out = weights
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    if number % 2:
        return torch.cat((low, high + sign * (torch.tanh(low @ W_in + b) @ W_out)), -1)
    return torch.cat((low + sign * (torch.tanh(high @ W_in + b) @ W_out), high), -1)


@settings
@dataclass(frozen=True, eq=False)
class Subspace:
    """Directions of a site's activation, as an orthonormal basis.

    basis: [width, rank]; width is d_model in the stream, d_head of a head ("L3H2", "L3H2.q"), d_mlp of
    "L3.post". place: where, such as "L3.resid_pre" or "L3H2". flow: exchange the first `rank` coordinates of
    flow(h) instead; the basis then says the rank alone.

    Raises ValueError for a basis that is not orthonormal (`orthonormal` makes it so) or wider than long.

    Example:
        >>> import torch
        >>> Subspace = interp.subspaces.Subspace
        >>> line = Subspace(torch.tensor([[0.6], [0.8]]), "L0.resid_pre")
        >>> line.exchange(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).round(decimals=2).tolist()
        [1.12, 0.16]
    """

    basis: Float[Tensor, "width rank"]
    place: Place
    method: str = "given"
    seed: int = -1
    flow: Flow | None = None
    __repr__ = brief

    def __init__(
        self,
        basis: Float[Tensor, "width rank"] | Float[Tensor, "width"],
        place: str | Place,
        method: str = "given",
        seed: int = -1,
        flow: Flow | None = None,
    ) -> None:
        basis = basis[:, None] if basis.ndim == 1 else basis
        where = place if isinstance(place, Place) else parse(place)
        for name, value in (("basis", basis), ("place", where), ("method", method), ("seed", seed)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "flow", flow)
        self._check()

    def _check(self) -> None:
        width, rank = self.basis.shape
        if not 1 <= rank <= width:
            raise ValueError(f"a basis of {rank} directions does not fit into {width} dimensions.")
        square = self.basis.detach().double().T @ self.basis.detach().double()
        off = float((square - torch.eye(rank, dtype=torch.float64, device=square.device)).norm())
        if not off <= TOLERANCE:
            raise ValueError(
                f"the basis is not orthonormal: BᵀB differs from 1 by {off:.1g}. Give "
                "interp.subspaces.orthonormal(B), which spans the same."
            )

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    def exchange(self, own: Float[Tensor, "... width"], source: Float[Tensor, "... width"]) -> Tensor:
        """`own` with the source's part in the subspace; exactly `own` where both are the same."""
        if self.flow is None:
            B = self.basis.to(own)
            return own + ((source - own) @ B) @ B.T
        there, other = self.flow(own), self.flow(source)
        mixed = torch.cat((other[..., : self.rank], there[..., self.rank :]), -1)
        return self.flow.inverse(mixed)

    def rest(self, own: Float[Tensor, "... width"], source: Float[Tensor, "... width"]) -> Tensor:
        """`own` with everything of the source but its part in the subspace."""
        return self.exchange(source, own)


def place_in(subspace: Subspace, facts: Anatomy) -> Place:
    """The subspace's place in a model. ValueError for another width."""
    where = spot(subspace.place, facts)
    size = width(where, facts)
    if subspace.basis.shape[0] != size:
        raise ValueError(
            f"the basis has {subspace.basis.shape[0]} rows, the activation at {where} {size} dimensions."
        )
    return where
