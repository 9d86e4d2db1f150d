"""Guiding Giants: a small network decides for each prompt how much of a patch each layer gets (2505.20309).

1. The activations at the last prompt token of the input places, side by side.
2. A network with one hidden layer (ReLU) gives a logit s of "harmful", and a number w_l for each layer.
3. At the last position of every pass, from the end of the prompt on: h_l + sigmoid(s) sigmoid(w_l) alpha d_l.
4. Training, on activations alone (no pass of the model, no gradient of it): cross-entropy of s with the
   labels, plus 0.1 (|sigmoid(w) - 1/2| + 0.01 sigmoid(w)), the mean over layers and prompts.

The formulas are those of the authors' code; Adam over all prompts at once, and the hard threshold, are ours.
With a threshold, prompts whose sigmoid(s) is not above it keep the model's own activations to the bit.
In the paper d is the difference of two centroids of token embeddings (refusals, answers); any direction will
do here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp._activations import activations
from interp._brief import brief
from interp._verbs import verb
from interp.models import Model, anatomy
from interp.models.places import place
from interp.places import Place
from interp.positions import Frame, generated
from interp.prompts import read_classes
from interp.steering._direction import Direction, same_model
from interp.steering._edit_types import Edit
from interp.steering._intervention import Intervention, _rank
from interp.steering._optimise import learn
from interp.steering.edits import Made, Number, finite

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Reader(Edit):
    """Changes nothing; keeps the activations at the last token of each prompt, for edits that come after."""

    kept: dict[Place, Tensor]
    where: Place
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError(
            "what reads the end of the prompt needs a running pass: use it in steer or generate."
        )

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        if frame.offset == 0:
            last = (frame.positions == frame.lengths - 1).to(h)  # [row, pos]
            if bool((last.sum(1) != 1).any()):
                raise ValueError(
                    "this pass does not hold the end of every prompt. Run the prefill in one pass."
                )
            self.kept[self.where] = torch.einsum("rp,rpd->rd", last, h)
        return h


@dataclass(frozen=True, eq=False)
class _Patch(Edit):
    """h + strength of the row and layer times the vector."""

    controller: Controller
    kept: dict[Place, Tensor]
    where: Place
    alpha: float
    __repr__ = brief

    def __call__(self, h: Tensor) -> Tensor:
        raise ValueError("a controller decides on the prompt, so it needs a running pass: use it in steer.")

    def at(self, h: Tensor, frame: Frame) -> Tensor:
        size = self.controller.strengths(self.kept)[:, self.controller.layers.index(self.where)]  # [row]
        if len(size) != len(h):
            raise ValueError(f"the prompts were {len(size)} rows, this pass has {len(h)}.")
        step = self.alpha * size[:, None, None].to(h) * self.controller.direction.vectors[self.where].to(h)
        return torch.where((size != 0)[:, None, None].to(h.device), h + step, h)


@dataclass(frozen=True, eq=False)
class Controller:
    """A trained controller. inputs: where it reads; its direction has the patched places.

    threshold: None scales every patch by sigmoid(s); a number leaves prompts that are not above it alone.
    """

    direction: Direction
    inputs: tuple[Place, ...]
    weights: Weights
    centre: Float[Tensor, "input"]
    spread: float
    threshold: float | None = 0.5
    losses: tuple[float, ...] = field(default=(), repr=False)
    __repr__ = brief

    @property
    def layers(self) -> tuple[Place, ...]:
        """The patched places."""
        return self.direction.places

    def decide(self, kept: Mapping[Place, Tensor]) -> tuple[Tensor, Tensor]:
        """P(harmful) [row], and the weight of each layer [row, layer], of activations [row, d] by input."""
        x = torch.cat([kept[where].double() for where in self.inputs], 1)
        out = _network(self.weights, (x - self.centre.to(x)) / self.spread)
        return torch.sigmoid(out[:, 0]), torch.sigmoid(out[:, 1:])

    def strengths(self, kept: Mapping[Place, Tensor]) -> Float[Tensor, "row layer"]:
        """What the vector of each layer is multiplied by, beside alpha."""
        p, share = self.decide(kept)
        on = p if self.threshold is None else torch.where(p > self.threshold, p, 0.0)
        return on[:, None] * share

    def harmful(self, model: Model, prompts: Any) -> Float[Tensor, "prompt"]:
        """P(harmful) of each prompt. Cost: a pass of each as far as the last input."""
        d = self.direction
        same_model("the controller", d.model, d.weights, model)
        return self.decide(activations(model, prompts, list(self.inputs), "last"))[0]

    def steer(self, alpha: Number = 1.0) -> Made:
        """The patches: at the last prompt token and every token after it. alpha: times the vectors."""
        finite("alpha", alpha)
        kept: dict[Place, Tensor] = {}
        reads = [Intervention(where, Reader(kept, where)) for where in self.inputs]
        d = self.direction
        patches = [
            Intervention(w, _Patch(self, kept, w, float(alpha)), generated, model=d.model, weights=d.weights)
            for w in self.layers
        ]
        return (*reads, *patches)


@verb
def guiding_giants(
    model: Model,
    direction: Direction,
    harmful: Any,
    harmless: Any,
    inputs: str | Sequence[str],
    *,
    hidden: int = 64,
    threshold: float | None = 0.5,
    steps: int = 200,
    lr: Number = 0.01,
    seed: int = 0,
    batch_size: int | None = None,
) -> Controller:
    """A controller trained to tell harmful prompts, and the patch of `direction` that it weighs.

    direction: at every place that is to be patched. inputs: places that it reads, all before the first patch.
    hidden: units of the network (1024 in the paper). Raises ValueError, before any pass, for an empty class,
    an input that is not before the patches, a threshold outside 0 to 1. Cost: a forward pass of each prompt
    as far as the last input; the training makes none. The model's parameters are never touched.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=[1])
        >>> control = steering.methods.guiding_giants(model, d, up, down, "L0.resid_pre", steps=5)
        >>> len(control.steer(1.0))
        2
    """
    facts = anatomy(model)
    if direction.layout != "vector":
        raise ValueError(f"the direction has layout {direction.layout!r}; a patch is one vector a place.")
    read_at = tuple(place(each, facts) for each in ([inputs] if isinstance(inputs, str) else inputs))
    first = min(direction.require_any().check(model).places, key=_rank)
    late = [str(where) for where in read_at if _rank(where) >= _rank(first)]
    if not read_at or late:
        raise ValueError(
            f"inputs is {list(map(str, read_at))}; give places before the first patch, {first}"
            + (f" ({', '.join(late)} is not)." if late else ".")
        )
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}; give a probability from 0 to below 1, or None.")
    if hidden < 1:
        raise ValueError(f"hidden is {hidden}; the network needs a unit or more.")
    sides = read_classes(model, harmful, harmless)
    rows = [
        torch.cat([found[w].double() for w in read_at], 1)
        for found in (
            activations(model, each, list(read_at), "last", batch_size=batch_size) for each in sides
        )
    ]
    x = torch.cat(rows)
    label = torch.cat([torch.full((len(side),), value) for side, value in zip(rows, (1.0, 0.0))]).to(x)
    centre, spread = x.mean(0), float((x - x.mean(0)).square().mean().sqrt().clamp(min=1e-12))
    start = _start(x.shape[1], hidden, 1 + len(direction.places), seed)
    start = {name: each.to(x) for name, each in start.items()}
    learnt, losses = learn(
        start, lambda free: _loss(_network(free, (x - centre) / spread), label), steps=steps, lr=lr
    )
    return Controller(direction, read_at, learnt, centre, spread, threshold, tuple(losses))


def _start(n_in: int, hidden: int, n_out: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n_in, hidden, generator=generator, dtype=torch.float64) / n_in**0.5
    second = torch.randn(hidden, n_out, generator=generator, dtype=torch.float64) * 0.1 / hidden**0.5
    return {
        "W_in": first, "b_in": torch.zeros(hidden).double(),
        "W_out": second, "b_out": torch.zeros(n_out).double(),
    }  # fmt: skip


def _network(weights: Weights, x: Float[Tensor, "row input"]) -> Float[Tensor, "row out"]:
    """[row, 1 + layer]: the logit of harmful, and the logit of each layer's weight."""
    return torch.relu(x @ weights["W_in"].to(x) + weights["b_in"].to(x)) @ weights["W_out"].to(x) + weights[
        "b_out"
    ].to(x)


def _loss(out: Float[Tensor, "row out"], label: Float[Tensor, "row"] | Bool[Tensor, "row"]) -> Tensor:
    share = torch.sigmoid(out[:, 1:])
    told = torch.nn.functional.binary_cross_entropy_with_logits(out[:, 0], label)
    return told + 0.1 * ((share - 0.5).abs() + 0.01 * share).mean()
