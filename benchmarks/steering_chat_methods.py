"""What the study on a chat model compares: directions, maps and trained edits, each a function of a strength.

All edit the stream before one layer (the tuned bias: the MLPs from there on). Vectors are scaled to the
median norm of the answers' tokens at the layer, so that a strength counts in such norms; a rotation's is an
angle in radians, that of maps and trained edits a share of the whole.

Trained edits are learned by `steering.learn`, the loop of `optimise`, `rank_one_adapter` and `tuned_bias`,
with their loss (mean −log P of the wanted answers' tokens), on passes from the kept stream: the public
functions make whole passes, which cost several times as much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from steering_chat_cases import Behaviour, chat
from steering_chat_rig import Answers, Talks
from torch import Tensor

import interp
from interp import positions, steering
from interp.engine.forward import forward
from interp.places import Place
from interp.positions import AnyPositions
from interp.prompts import Prompts, read
from interp.steering import estimators, methods
from interp.steering._direction import Direction, found_on
from interp.steering._edit_types import Add
from interp.steering._intervention import Intervention

STEPS, RATES, TRAIN_TOKENS, OT_DIMENSIONS = 10, {"vector": 0.3, "rank one": 0.1, "bias": 0.05}, 16, 8
Make = Callable[[float, AnyPositions], Any]
Read = Callable[[Tensor], Tensor] | None


@dataclass(frozen=True, eq=False)
class Method:
    """Interventions of a strength at positions; where calibration starts and ends; what it reads of rows."""

    name: str
    make: Make
    start: float
    most: float = math.inf
    read: Read = None


class Directions:
    """What is found and trained on the first requests of a behaviour."""

    def __init__(self, model: Any, weights: Any, behaviour: Behaviour, layer: int) -> None:
        self.model, self.weights, self.behaviour, self.layer = model, weights, behaviour, layer
        self.place = Place("resid_pre", layer)
        rows = behaviour.answers(held_out=False)
        self.requests = [ask for ask, _, _ in rows]
        self.sides = [[side[i] for side in rows] for i in (1, 2)]
        self.up, self.down = (self.tokens_of(self.requests, side) for side in self.sides)
        everything = torch.cat([*self.up, *self.down]).double()
        self.norm = float(everything.norm(dim=1).median())

    def stream(self, prompts: Prompts) -> Float[Tensor, "row pos d"]:
        """Activations at the layer."""
        with torch.no_grad():
            return forward(self.weights, self.weights.embed(prompts.tokens), stop=self.layer)

    def tokens_of(self, requests: list[str], answers: list[str]) -> list[Tensor]:
        """Activations of each answer's tokens at the layer, [token, d]."""
        prompts = read(self.model, [chat(ask, answer) for ask, answer in zip(requests, answers)])
        return [rows[mask] for rows, mask in zip(self.stream(prompts), prompts.spans["response"])]

    def scaled(self, vector: Tensor) -> Direction:
        """At the median norm of the answers' tokens."""
        vector = vector.double() / vector.double().norm() * self.norm
        return Direction.from_tensor(vector.float(), layer=self.layer)

    @cached_property
    def means(self) -> tuple[Float[Tensor, "request d"], Float[Tensor, "request d"]]:
        """Mean over each answer's tokens, of both sides."""
        up, down = (torch.stack([rows.double().mean(0) for rows in side]) for side in (self.up, self.down))
        return up, down

    def mean_difference(self) -> Direction:
        return self.scaled(estimators.mean_difference(*self.means))

    def logistic(self) -> Direction:
        return self.scaled(estimators.logistic(*self.means))

    def shuffled(self, seed: int) -> Direction:
        """The mean difference with half of the pairs turned round."""
        n = len(self.requests)
        turn = estimators.shuffle(n, n, True, torch.Generator().manual_seed(seed), balanced=True)
        return self.scaled(estimators.mean_difference(*turn(*self.means)))

    def random(self, seed: int) -> Direction:
        return random_direction(self.layer, self.up[0].shape[1], self.norm, seed)

    def of_system_prompts(self) -> Direction:
        """The difference of two system prompts at the token that makes the first new one."""
        rows = []
        for system in (self.behaviour.system, self.behaviour.opposite):
            prompts = read(self.model, [chat(ask, None, system) for ask in self.requests])
            rows.append(self.stream(prompts)[torch.arange(len(prompts)), prompts.lengths - 1])
        return self.scaled(estimators.mean_difference(*rows))

    @cached_property
    def talks(self) -> Talks:
        return Talks(self.weights, read(self.model, [chat(ask) for ask in self.requests]))

    def loss(self, texts: list[str]) -> Callable[[list[Intervention]], Tensor]:
        """Mean −log P of a token of these answers, nats, under interventions."""
        answers = Answers(self.talks, _ids(self.model, texts), self.layer, TRAIN_TOKENS)
        return lambda made: -answers.log_probs(made).mean()

    def trained(self, texts: list[str], steps: int) -> Direction:
        """A vector that makes the answers likely, from a random one (`optimise`)."""
        loss, start = self.loss(texts), _drawn(self.up[0].shape[1], 0)

        def run(free: Any) -> Tensor:
            return loss([Intervention(self.place, Add(free["v"]), positions.generated)])

        learnt, _ = steering.learn({"v": start}, run, steps=steps, lr=RATES["vector"])
        return self.scaled(learnt["v"])

    def mixed(self) -> list[str]:
        """Wanted and unwanted answers in turn: targets with shuffled labels."""
        return [self.sides[i % 2][i] for i in range(len(self.requests))]

    def rank_one(self, steps: int) -> methods.RankOne:
        """h + r (w · h + b − r · h), as `rank_one_adapter` learns it."""
        loss, norm, r = self.loss(self.sides[0]), self.norm, _drawn(self.up[0].shape[1], 0)

        def run(free: Any) -> Tensor:
            def edit(h: Tensor) -> Tensor:
                step = h @ free["w"] / norm + free["b"] * norm / 10
                return h + step.unsqueeze(-1) * (free["r"] / free["r"].norm())

            return loss([Intervention(self.place, edit, positions.generated)])

        begin = {"r": r, "w": torch.zeros_like(r), "b": torch.full_like(r[0], 1e-3)}
        learnt, losses = steering.learn(begin, run, steps=steps, lr=RATES["rank one"])
        unit = learnt["r"] / learnt["r"].norm()
        w, b = unit + learnt["w"] / norm, float(learnt["b"]) * norm / 10
        return methods.RankOne(self.place, unit, w, b, found_on(self.model), tuple(losses))

    def bias(self, steps: int) -> Direction:
        """A bias for the MLP of every layer from the edited one on, as `tuned_bias` learns it."""
        loss = self.loss(self.sides[0])
        layers = range(self.layer, len(self.weights.blocks))
        zeros = {str(Place("mlp_out", n)): torch.zeros(self.up[0].shape[1]) for n in layers}

        def run(free: Any) -> Tensor:
            return loss([Intervention(name, Add(free[name]), positions.generated) for name in zeros])

        learnt, _ = steering.learn(zeros, run, steps=steps, lr=RATES["bias"])
        return Direction({Place("mlp_out", n): learnt[str(Place("mlp_out", n))] for n in layers})

    def methods(self, steps: int = STEPS) -> list[Method]:
        """All that have a strength, in the order of the table."""
        found, adapter = self.mean_difference(), self.rank_one(steps)
        below = self.scaled(self.means[1].mean(0))
        scale, shift = methods.transport_map(torch.cat(self.down), torch.cat(self.up))
        mapped = methods.gaussian_map(torch.cat(self.down), torch.cat(self.up), OT_DIMENSIONS)

        def turn(angle: float, when: AnyPositions) -> Any:
            return steering.rotate(below, found, angle, when=when)

        def affine(strength: float, when: AnyPositions) -> Any:
            return steering.edits.affine(self.place, scale, shift, strength, when=when)

        def moved(strength: float, when: AnyPositions) -> Any:
            return (Intervention(self.place, replace(mapped, strength=strength), when),)

        return [
            adding("mean difference", found),
            Method("mean difference, turned", turn, 0.25, math.pi / 2),
            adding("logistic", self.logistic()),
            adding("system prompts' direction", self.of_system_prompts()),
            Method("Linear-AcT", affine, 0.5),
            Method("Gaussian OT", moved, 0.5),
            adding("trained vector", self.trained(self.sides[0], steps)),
            Method("rank-1 adapter", lambda s, when: adapter.steer(s, when=when), 1.0, read=adapter.read),
            replace(adding("tuned bias", self.bias(steps), 1.0), read=None),
        ]

    def controls(self, n_shuffled: int, steps: int = STEPS) -> list[Method]:
        """Directions of shuffled labels, and a vector trained on shuffled targets."""
        drawn = [adding(f"shuffled {i + 1}", self.shuffled(i)) for i in range(n_shuffled)]
        return [*drawn, adding("trained, shuffled", self.trained(self.mixed(), steps))]


def adding(name: str, direction: Direction, start: float = 0.25) -> Method:
    """A direction, added."""
    unit = direction.vector.double() if len(direction.places) == 1 else None
    return Method(
        name, lambda strength, when: steering.add(direction, strength, when=when), start,
        read=None if unit is None else lambda h: h.double() @ (unit / unit.norm()),
    )  # fmt: skip


def random_direction(layer: int, width: int, norm: float, seed: int) -> Direction:
    """A normal vector of a given norm."""
    return Direction.from_tensor(_drawn(width, 1000 + seed) * norm, layer=layer)


def _drawn(width: int, seed: int) -> Tensor:
    """A random vector of length 1."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (vector / vector.norm()).float()


def _ids(model: Any, texts: list[str]) -> list[list[int]]:
    return [interp.tasks.vocabulary.encode(model, text, False) for text in texts]


def span_of(model: Any, system: str, prompts: Prompts) -> tuple[int, int]:
    """Where the words of the system prompt stand, in prompts that all begin with it."""
    opening = "<|im_start|>system\n"
    start, stop = (len(ids) for ids in _ids(model, [opening, opening + system]))
    if len({tuple(row[:stop]) for row in prompts.tokens.tolist()}) != 1:
        raise ValueError("the prompts do not begin with one system prompt.")
    return start, stop
