"""The search for a subspace: what is free in it, and Adam on that.

1. A featuriser turns free numbers into an exchange. "das": a matrix whose QR is the basis. "flow": coupling
   layers first. "dbm": a fixed basis, the site's own coordinates or its principal components, with a gate
   σ(m/τ) on each direction; τ falls from 1 to .01, and open gates cost.
2. Adam on the free numbers lowers the cross-entropy of the expected answer on batches of pairs.
3. Kept is what has the lowest loss on the pairs held out for stopping; of gates, whose loss means little
   before τ has fallen, the last. Judged are hard gates only: open where m > 0.

DAS: Geiger et al. 2303.02536. Masks (DBM): De Cao et al. 2004.14992, in MIB (2504.13151) beside DAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.places import Place
from interp.subspaces._pairs import Pairs
from interp.subspaces._stage import Exchange, Stage
from interp.subspaces._subspace import Flow, Subspace, orthonormal

FEATURISERS = ("das", "dbm", "dbm+pca", "flow")  # as MIB names the first three
LEAST, _BATCH, _EPOCHS, _PATIENCE, _ROUND = 200, 128, 20, 3, 10
_FLOW_LAYERS = 2
_COLDEST = 0.01  # of the gates' temperature


@runtime_checkable
class Featuriser(Protocol):
    """What is free, and the subspace that it makes."""

    settles: bool  # whether a lower held-out loss on the way is worth keeping

    def start(self, generator: torch.Generator) -> list[Tensor]: ...

    def exchange(self, free: list[Tensor], share: float) -> tuple[Exchange, Tensor | float]:
        """While learning, after a share of the steps: the exchange, and what it costs beside the loss."""
        ...

    def subspace(self, free: list[Tensor]) -> Subspace: ...

    def random(self, rank: int, generator: torch.Generator) -> Subspace:
        """Of the same kind and as many directions, drawn at random."""
        ...


def featuriser(name: str, stage: Stage, rank: int | None, l1: float, seed: int) -> Featuriser:
    """One of `FEATURISERS`, for the activations of a stage."""
    if name in ("das", "flow"):
        return _Rotation(stage.where, stage.values, rank or 1, seed, name == "flow")
    rows = stage.values.flatten(0, -2).double()
    size = rows.shape[-1]
    basis = torch.eye(size, dtype=rows.dtype, device=rows.device) if name == "dbm" else components(rows)
    return _Gates(stage.where, basis.to(stage.values), l1, seed, name)


def components(rows: Float[Tensor, "row width"]) -> Float[Tensor, "width component"]:
    """Principal components of some rows, strongest first, without those along which they do not vary."""
    return principal(rows - rows.mean(0))


def principal(rows: Float[Tensor, "row width"]) -> Float[Tensor, "width component"]:
    """The directions of some rows, strongest first, without those of no length."""
    _, sizes, V = torch.linalg.svd(rows.double(), full_matrices=False)
    return V[sizes > 1e-9 * sizes.max()].T


def fit(
    kind: Featuriser,
    stage: Stage,
    train: Pairs,
    stop: Pairs,
    steps: int | None,
    lr: float,
    seed: int,
    tick: Callable[[int], object],
) -> tuple[Subspace, tuple[float, ...]]:
    """The subspace, and the held-out loss after every epoch."""
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(train) // _BATCH)
    limit = steps or max(LEAST, _EPOCHS * batches)
    rounds = max(1, _ROUND // batches) * batches  # of small sets several epochs at once
    with torch.inference_mode(False), torch.enable_grad():
        free = kind.start(generator)
        optimiser, rows = torch.optim.Adam(free, lr=lr), _batches(len(train), generator)
        kept, losses = kind.subspace(free), []
        for taken in range(limit):
            exchange, price = kind.exchange(free, taken / limit)
            loss = stage.loss(train.take(next(rows)), exchange) + price
            for parameter, slope in zip(free, torch.autograd.grad(loss, free)):
                parameter.grad = slope
            optimiser.step()
            tick(1)
            if (taken + 1) % rounds and taken + 1 < limit:
                continue
            with torch.no_grad():
                reached = kind.subspace(free)
                losses.append(float(stage.loss(stop, reached.exchange)))
            if not kind.settles or losses[-1] <= min(losses):
                kept = reached
            if kind.settles and _stalled(losses):
                break
    return kept, tuple(losses)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of batch after batch, epoch after epoch, each in an order of its own."""
    while True:
        yield from torch.randperm(n, generator=generator).split(_BATCH)


def _stalled(losses: list[float]) -> bool:
    """Whether the held-out loss has not fallen for some epochs."""
    return len(losses) > _PATIENCE and min(losses[-_PATIENCE:]) >= min(losses[:-_PATIENCE])


@dataclass(frozen=True, eq=False)
class _Rotation:
    """The basis is the QR of a free matrix; of a flow also the layers, the last weights 0 at first."""

    where: Place
    values: Tensor
    rank: int
    seed: int
    bent: bool
    settles = True

    def start(self, generator: torch.Generator) -> list[Tensor]:
        size = self.values.shape[-1]
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
        drawn = [orthonormal(draw(size, size if self.bent else self.rank))]  # so that a step turns it
        for number in range(_FLOW_LAYERS if self.bent else 0):
            read, written = _halves(size, number)
            drawn += [
                draw(read, 2 * size) / read**0.5,
                torch.zeros(2 * size),
                torch.zeros(2 * size, written),
            ]
        return _free(drawn, self.values)

    def exchange(self, free: list[Tensor], share: float) -> tuple[Exchange, Tensor | float]:
        return self._made(free).exchange, 0.0

    def subspace(self, free: list[Tensor]) -> Subspace:
        return self._made([each.detach().clone() for each in free])

    def _made(self, free: list[Tensor]) -> Subspace:
        Q, method = orthonormal(free[0]), "das, flow" if self.bent else "das"
        if not self.bent:
            return Subspace(Q, self.where, method, self.seed)
        layers = tuple((free[i], free[i + 1], free[i + 2]) for i in range(1, len(free), 3))
        return Subspace(Q[:, : self.rank], self.where, method, self.seed, Flow(Q, layers))

    def random(self, rank: int, generator: torch.Generator) -> Subspace:
        drawn = torch.randn(self.values.shape[-1], rank, generator=generator, dtype=torch.float64)
        return Subspace(orthonormal(drawn).to(self.values), self.where, "random")


@dataclass(frozen=True, eq=False)
class _Gates:
    """A gate on every direction of a fixed basis."""

    where: Place
    basis: Float[Tensor, "width direction"]
    l1: float  # nats an open gate
    seed: int
    name: str
    settles = False

    def start(self, generator: torch.Generator) -> list[Tensor]:
        return _free([torch.zeros(self.basis.shape[1])], self.basis)

    def exchange(self, free: list[Tensor], share: float) -> tuple[Exchange, Tensor | float]:
        gates = torch.sigmoid(free[0] / _COLDEST**share)
        B = self.basis.to(gates)
        along = lambda own, source: own + (((source - own) @ B.to(own)) * gates.to(own)) @ B.to(own).T  # noqa: E731
        return along, self.l1 * gates.sum()

    def subspace(self, free: list[Tensor]) -> Subspace:
        """The directions whose gates are open; where none is, the one that is nearest to it."""
        m = free[0].detach()
        chosen = (m > 0) | (m == m.max()) & (m.max() <= 0)
        return Subspace(self.basis[:, chosen], self.where, self.name, self.seed)

    def random(self, rank: int, generator: torch.Generator) -> Subspace:
        drawn = torch.randperm(self.basis.shape[1], generator=generator)[:rank]
        return Subspace(self.basis[:, drawn.to(self.basis.device)], self.where, "random")


def _free(drawn: list[Tensor], like: Tensor) -> list[Tensor]:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return [each.to(like.device, dtype).requires_grad_(True) for each in drawn]


def _halves(size: int, number: int) -> tuple[int, int]:
    """What a coupling layer reads and writes."""
    low, high = size // 2, size - size // 2
    return (low, high) if number % 2 else (high, low)
