"""Gates of a mask, and the state of their training.

A gate is a random number from 0 to 1, differentiable in a parameter θ that says how open it is.

| gate          | a sample                                                      | open with probability |
|---------------|---------------------------------------------------------------|-----------------------|
| hard-concrete | clamp(σ((logit(u) + θ) / β) (r − l) + l, 0, 1), u uniform      | σ(θ − β log(−l / r))   |
| uniform       | uniform with probability p (1 − p), else 1 or 0; mean p = σ(θ) | p                     |

Hard concrete: Louizos et al. 2018 (1712.01312), as in subnetwork probing (Cao et al. 2021) and edge pruning
(Bhaskar et al. 2406.16778), β = 2/3, l = −0.1, r = 1.1.

Uniform gradient sampling: Li & Janson 2024 (2409.09951). The slope of the loss in a share m, averaged over
uniform m, is the loss at 1 minus the loss at 0, and that is the slope of the expected loss in p. Only uniform
samples tell of it: dividing by their probability p (1 − p), and multiplying by dp/dθ = p (1 − p), leaves the
slope in m for samples that are uniform, and 0 for others.

The state (parameters, Adam's moments, penalties) is saved whole and resumed exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits._graph import Graph

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
KINDS = ("hard-concrete", "uniform")
START = {"hard-concrete": 2.0, "uniform": 1.0}  # θ at first: nearly all open, and with a slope
_SHIFT = BETA * math.log(-LOW / HIGH)


def sample(
    kind: str, theta: Float[Tensor, "gate"], n: int, generator: torch.Generator
) -> Float[Tensor, "sample gate"]:
    """n independent samples of every gate."""
    u = torch.rand(n, len(theta), generator=generator, dtype=torch.float64).to(theta)
    if kind == "uniform":
        return _uniform(theta, u, torch.rand(u.shape, generator=generator, dtype=torch.float64).to(theta))
    u = u.clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((u.log() - (1 - u).log() + theta) / BETA)
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def open_share(kind: str, theta: Float[Tensor, "gate"]) -> Float[Tensor, "gate"]:
    """The probability that a gate is open, differentiable."""
    return torch.sigmoid(theta if kind == "uniform" else theta - _SHIFT)


def _uniform(theta: Tensor, u: Tensor, level: Tensor) -> Tensor:
    """`u` decides what each gate is: 1, uniform (`level`), or 0."""
    p = torch.sigmoid(theta.detach())
    between = p * (1 - p)
    opened = u < p - between / 2
    drawn = ~opened & (u < p + between / 2)
    value = torch.where(drawn, level, opened.to(theta.dtype))
    return value + drawn.to(theta.dtype) * (theta - theta.detach())


_DECAY = (0.9, 0.95)  # Adam: few steps, noisy slopes


GRANULARITIES = ("edges", "nodes")


@dataclass(frozen=True)
class Settings:
    """What the result depends on beside model, task, ablation and metric."""

    sparsity: float
    granularity: str = "edges"
    gate: str = "hard-concrete"
    steps: int = 300
    prompts: int = 8
    learning_rate: float = 0.1
    penalty_rate: float = 0.1
    constants_rate: float = 0.002
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"sparsity is {self.sparsity}; it is the share that is cut, from 0 to 1.")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity {self.granularity!r} is not one of {', '.join(GRANULARITIES)}.")
        if self.gate not in KINDS:
            raise ValueError(f"gate {self.gate!r} is not one of {', '.join(KINDS)}.")
        for name in ("steps", "prompts", "learning_rate", "penalty_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0.")


@dataclass(eq=False)
class State:
    """theta: one for each edge, or for each writer after the input. penalties: λ₁, λ₂."""

    theta: Float[Tensor, "gate"]
    penalties: Float[Tensor, "2"]
    constants: Float[Tensor, "writer d_model"] | None
    edges: bool
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    step: int = 0
    losses: list[float] = field(default_factory=list)

    @classmethod
    def new(
        cls, settings: Settings, graph: Graph, constants: Tensor | None, ahead: Tensor | None = None
    ) -> State:
        """All gates nearly open, no penalty. ahead: what is added to the gates' θ."""
        edges = settings.granularity == "edges"
        size = graph.n_edges if edges else len(graph.writers) - 1
        theta = torch.full((size,), START[settings.gate], dtype=torch.float64)
        theta = theta if ahead is None else theta + ahead
        learned = None if constants is None else _leaf(constants)
        return cls(_leaf(theta), _leaf(torch.zeros(2)), learned, edges)

    def mask(self, graph: Graph, drawn: Float[Tensor, "sample gate"]) -> Float[Tensor, "sample writer any"]:
        """Gates as a mask: of edges, or of writers for all of their readers; the input is always there."""
        if not self.edges:
            return torch.cat((torch.ones_like(drawn[:, :1]), drawn), 1)[..., None]
        allowed = graph.allowed
        out = drawn.new_ones(len(drawn), *allowed.shape)
        return out.masked_scatter(allowed, drawn)

    def update(self, loss: Tensor, settings: Settings) -> None:
        """One step: gates and constants down, penalties up."""
        rates = {"theta": settings.learning_rate, "penalties": -settings.penalty_rate}
        if self.constants is not None:
            rates["constants"] = settings.constants_rate
        tensors = [getattr(self, name) for name in rates]
        slopes = torch.autograd.grad(loss, tensors)
        self.step += 1
        with torch.no_grad():
            for (name, rate), tensor, slope in zip(rates.items(), tensors, slopes):
                tensor -= rate * self._direction(name, slope)

    def _direction(self, name: str, slope: Tensor) -> Tensor:
        """Adam's."""
        first, second = self.moments.get(name, (torch.zeros_like(slope), torch.zeros_like(slope)))
        first = _DECAY[0] * first + (1 - _DECAY[0]) * slope
        second = _DECAY[1] * second + (1 - _DECAY[1]) * slope**2
        self.moments[name] = first, second
        size = (second / (1 - _DECAY[1] ** self.step)).sqrt() + 1e-8
        return first / (1 - _DECAY[0] ** self.step) / size

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the rest of the training depends on."""
        found = {"theta": self.theta, "penalties": self.penalties}
        if self.constants is not None:
            found["constants"] = self.constants
        for name, pair in self.moments.items():
            found |= {f"{name}.{number}": moment for number, moment in enumerate(pair)}
        found["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Go on from saved tensors."""
        self.theta, self.penalties = _leaf(tensors["theta"]), _leaf(tensors["penalties"])
        self.constants = _leaf(tensors["constants"]) if "constants" in tensors else None
        self.losses, self.step = tensors["losses"].tolist(), len(tensors["losses"])
        names = {name.split(".")[0] for name in tensors if "." in name}
        self.moments = {name: (tensors[f"{name}.0"], tensors[f"{name}.1"]) for name in names}


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().double().clone().requires_grad_()
