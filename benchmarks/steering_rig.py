"""Many steered runs side by side: every direction of a set, each at a strength of its own, on all prompts.

An edit set holds k directions at a place. A strength is a number for each: for additions in median norms of
the stream at the place, for rotations in radians, for ablations the share that is removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interp import positions, steering
from interp.engine.readout import Reads
from interp.engine.runs import Runs
from interp.models import anatomy
from interp.places import Place
from interp.prompts import Prompts
from interp.steering._direction import Direction
from interp.steering._intervention import Intervention
from interp.steering._runs import Question, runner
from interp.tasks import KL, Task

ROUNDS = 12


@dataclass(frozen=True, eq=False)
class Adds:
    """h + strength · vector; vectors [k, d], or [k, pos, d] for one at each position from the first on."""

    layer: int
    vectors: Tensor
    most: float = math.inf

    def edits(self, model: Any, strength: Tensor, n: int) -> list[Intervention]:
        """One intervention for rows (direction, prompt)."""
        steps = strength.to(self.vectors).view(-1, *(1,) * (self.vectors.ndim - 1)) * self.vectors

        def edit(h: Tensor) -> Tensor:
            step = steps[:, None, None] if steps.ndim == 2 else _fitted(steps, h.shape[1])[:, None]
            return (h.unflatten(0, (len(steps), n)) + step).flatten(0, 1)

        return [Intervention(Place("resid_pre", self.layer), edit)]

    def public(self, model: Any, strength: float) -> Any:
        """The first of the set by the package's own function."""
        layout = "vector" if self.vectors.ndim == 2 else "positions"
        direction = Direction.from_tensor(self.vectors[0], layer=self.layer, layout=layout)
        return (steering.add if layout == "vector" else steering.edits.inject)(direction, strength)


@dataclass(frozen=True, eq=False)
class Rotates:
    """h turned by an angle from `first` [d] towards each of `vectors` [k, d]."""

    layer: int
    vectors: Tensor
    first: Tensor
    most: float = math.pi / 2

    def edits(self, model: Any, strength: Tensor, n: int) -> list[Intervention]:
        """One intervention for rows (direction, prompt)."""
        p = self.first / self.first.norm()  # [d]
        rest = self.vectors - (self.vectors @ p)[:, None] * p
        q = (rest / rest.norm(dim=-1, keepdim=True))[:, None, None]  # [k, 1, 1, d]
        c, s = (fn(strength.to(p)).view(-1, 1, 1, 1) for fn in (torch.cos, torch.sin))

        def edit(h: Tensor) -> Tensor:
            h = h.unflatten(0, (len(q), n)).double()
            x, y = (h @ p)[..., None], (h * q).sum(-1, keepdim=True)
            return (h + ((c - 1) * x - s * y) * p + (s * x + (c - 1) * y) * q).flatten(0, 1)

        return [Intervention(Place("resid_pre", self.layer), edit)]

    def public(self, model: Any, strength: float) -> Any:
        """The first of the set by the package's own function."""
        plane = [Direction.from_tensor(v, layer=self.layer) for v in (self.first, self.vectors[0])]
        return steering.rotate(*plane, strength)


@dataclass(frozen=True, eq=False)
class Ablates:
    """h without a share of its part along each of `vectors` [k, d], at every writer to the stream."""

    layer: int
    vectors: Tensor
    most: float = 1.0

    def edits(self, model: Any, strength: Tensor, n: int) -> list[Intervention]:
        """Interventions for rows (direction, prompt), one for each writer."""
        unit = (self.vectors / self.vectors.norm(dim=-1, keepdim=True))[:, None, None]
        share = strength.to(unit).view(-1, 1, 1, 1)

        def edit(h: Tensor) -> Tensor:
            h = h.unflatten(0, (len(unit), n)).double()
            return (h - share * (h * unit).sum(-1, keepdim=True) * unit).flatten(0, 1)

        return [Intervention(where, edit) for where in steering.writers(anatomy(model))]

    def public(self, model: Any, strength: float) -> Any:
        """The first of the set by the package's own function."""
        direction = Direction.from_tensor(self.vectors[0], layer=self.layer)
        return steering.ablate(direction.spread(steering.writers(anatomy(model))), strength)


Edits = Adds | Rotates | Ablates


@dataclass(frozen=True, eq=False)
class Measured:
    """Of every direction and prompt, [k, prompt]: changes are from the unsteered run."""

    kl: Tensor  # KL(unsteered ‖ steered) of the next token, nats
    effect: Tensor  # change of the logit difference, towards the side steered to
    entropy: Tensor  # change, nats
    flipped: Tensor  # whether the side steered to is the likelier


class Rig:
    """Steered runs of a task's prompts, from the steered layer on. The first `spared` tokens are left out."""

    def __init__(self, model: Any, task: Task, spared: int = 0) -> None:
        self.model, self.task = model, task
        self.when = positions.everywhere if not spared else positions.window(spared, None)
        runs = Runs(task.clean, task.clean, True, task.answers, task.wrongs, task.positions, task.lengths)
        every = [
            steering.add(Direction.from_tensor(model.W_U[:, 0], layer=at)) for at in range(model.cfg.n_layers)
        ]
        question = Question(Prompts(task.clean, task.lengths), Reads(runs, (KL(),)))
        self.run = runner(model, question, every, "fast", len(every))
        self.clean = self.run.clean.double()

    def measure(self, edits: Edits, strength: Tensor) -> Measured:
        """Every direction of the set at its strength."""
        k, n = len(edits.vectors), len(self.task)
        prompt = torch.arange(n).repeat(k)
        made = self.placed(edits.edits(self.model, strength, n))
        logits = self.run.run(prompt, made).double().unflatten(0, (k, n))
        log, before = logits.log_softmax(-1), self.clean.log_softmax(-1)
        return Measured(
            (before.exp() * (before - log)).sum(-1),
            self.difference(logits) - self.difference(self.clean),
            -(log.exp() * log).sum(-1) + (before.exp() * before).sum(-1),
            self._mass(log, self.task.answers) > self._mass(log, self.task.wrongs),
        )

    def placed(self, made: Iterable[Intervention]) -> list[Intervention]:
        """Interventions at the positions that are steered."""
        return [replace(each, when=self.when) for each in made]

    def difference(self, logits: Tensor) -> Tensor:
        """Mean logit of the answers minus that of the wrong ones, [..., prompt]."""
        return _mean(logits, self.task.answers) - _mean(logits, self.task.wrongs)

    @staticmethod
    def _mass(log: Tensor, ids: Tensor) -> Tensor:
        return _mean(log.exp(), ids) * (ids >= 0).sum(1)

    def calibrate(self, edits: Edits, target: float, tolerance: float = 0.01) -> Tensor:
        """Strengths at which the mean KL is the target; NaN where none up to `most` reaches it.

        KL goes about with a power of the strength: interpolate in logarithms, bisect every third round.
        """
        k = len(edits.vectors)
        strength = torch.full((k,), min(0.3, edits.most), dtype=torch.float64)
        low, high = torch.zeros(2, k, dtype=torch.float64), torch.full((2, k), math.inf, dtype=torch.float64)
        todo = torch.arange(k)
        for round in range(ROUNDS):
            some = replace(edits, vectors=edits.vectors[todo])
            kl = self.measure(some, strength[todo]).kl.mean(1).clamp(min=1e-12)
            off = (kl / target - 1).abs() > tolerance
            beyond = (kl < target) & (strength[todo] >= edits.most)
            strength[todo[beyond]] = math.nan
            for side, of in ((low, kl < target), (high, kl >= target)):
                side[:, todo[of]] = torch.stack((strength[todo[of]], kl[of]))
            todo = todo[off & ~beyond]
            if not len(todo):
                break
            if round < ROUNDS - 1:
                strength[todo] = _next(low[:, todo], high[:, todo], target, round).clamp(max=edits.most)
        return strength


def _next(low: Tensor, high: Tensor, target: float, round: int) -> Tensor:
    """The strengths to try next, from the last below [strength, KL] and the last above."""
    between = (low[0] > 0) & (high[0] < math.inf)
    only = torch.where(low[0] > 0, low, high)
    power = (target / only[1]).sqrt()
    outside = only[0] * torch.where(low[0] > 0, power.clamp(1.05, 4.0) * 1.05, power.clamp(0.1, 0.95) * 0.95)
    a, b = low[0].clamp(min=1e-12).log(), high[0].clamp(max=1e12).log()
    u, v = low[1].clamp(min=1e-12).log(), high[1].clamp(max=1e12).log()
    share = ((math.log(target) - u) / (v - u).clamp(min=1e-9)).clamp(0.05, 0.95)
    inside = (a + (b - a) * (0.5 if round % 3 == 2 else share)).exp()
    return torch.where(between, inside, outside)


def _mean(values: Tensor, ids: Tensor) -> Tensor:
    """Mean over the ids of each prompt, -1 left out: [..., prompt, vocab] to [..., prompt]."""
    real = (ids >= 0).to(values)
    picked = values.gather(-1, ids.clamp(min=0).expand(*values.shape[:-1], -1))
    return (picked * real).sum(-1) / real.sum(-1)


def _fitted(steps: Tensor, n_pos: int) -> Tensor:
    """[k, pos, d] cut or filled with 0 to n_pos."""
    return torch.nn.functional.pad(steps, (0, 0, 0, n_pos - steps.shape[1]))
