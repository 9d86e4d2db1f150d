"""Directions of a behaviour by every method of extraction, and the same with shuffled labels.

Vectors come at the length of the median norm of the stream at their layer, so that a strength counts in it.
Methods that find the same vector for both senses turn its sign.

Shuffled labels: pairs turned round at random, half of them. Turned pairs leave the direction of `pca` as it
is, so there all prompts are dealt anew, as they are to the three classes of `class_means`. `prompt_pair`
takes both prompts from one side. `optimise` learns on prompts of both sides, with targets of either side at
random.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from steering_cases import Case, Setup
from torch import Tensor

from interp import steering
from interp.places import Place
from interp.steering import estimators
from interp.steering.estimators import shuffle
from interp.tasks import LogitDiff, Task

CANDIDATES = 8  # pairs of prompts of prompt_pair, chosen like a layer
STEPS, RATE, PROMPTS = 15, 0.15, 12  # of optimise


class Directions:
    """The activations of a case, and the directions in them."""

    def __init__(self, model: Any, case: Case, setup: Setup) -> None:
        self.model, self.case, self.setup = model, case, setup
        places = [Place("resid_pre", layer) for layer in setup.layers]
        self.rows = {
            name: {p.layer: rows.double() for p, rows in steering.activations(model, prompts, places).items()}
            for name, prompts in (("up", case.up), ("down", case.down), ("third", case.third))
            if prompts is not None
        }
        both = {at: torch.cat((self.rows["up"][at], self.rows["down"][at])) for at in setup.layers}
        self.norm = {layer: rows.norm(dim=1).median().item() for layer, rows in both.items()}
        self.gap = {layer: self._gap(layer) for layer in setup.layers}

    def _gap(self, layer: int) -> float:
        return (self.rows["up"][layer] - self.rows["down"][layer]).mean(0).norm().item()

    def methods(self) -> tuple[str, ...]:
        """Those that differ here: with two classes class_means is the mean difference."""
        return tuple(m for m in self.setup.methods if m != "class_means" or self.case.third is not None)

    def start(self, layer: int, sense: int) -> Tensor:
        """Mean activation of the side that is steered."""
        return self.rows["down" if sense == 0 else "up"][layer].mean(0)

    def candidates(self, method: str, layer: int, sense: int) -> list[Tensor]:
        """The direction of a method at a layer; several where it takes one pair of prompts."""
        if method == "prompt_pair":
            return [self._pair(layer, sense, i, i) for i in range(CANDIDATES)]
        if method == "optimise":
            return [self._optimised(layer, sense, None)]
        if method == "class_means":
            return [self._class_mean(layer, sense, None)]
        found = self._estimator(method)(self.rows["up"][layer], self.rows["down"][layer])
        return [self._scaled(found if sense == 0 else -found, layer)]

    def shuffled(self, method: str, layer: int, sense: int, draws: int, seed: int = 0) -> list[Tensor]:
        """The same method on shuffled labels, several draws."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for draw in range(draws):
            if method == "prompt_pair":
                i, j = torch.randperm(len(self.case.up), generator=generator)[:2].tolist()
                found.append(self._pair(layer, sense, i, j, same_side=True))
            elif method == "optimise":
                found.append(self._optimised(layer, sense, draw))
            elif method == "class_means":
                found.append(self._class_mean(layer, sense, generator))
            else:
                n = len(self.case.up)
                turned = shuffle(n, n, method != "pca", generator, balanced=True)
                rows = turned(self.rows["up"][layer], self.rows["down"][layer])
                found.append(self._scaled(getattr(estimators, method)(*rows), layer))
        return found

    def random(self, layer: int, draws: int, shape: tuple[int, ...], seed: int = 0) -> list[Tensor]:
        """Normal directions of equal norm, every row of them."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((draws, *shape), generator=generator, dtype=torch.float64)
        return [self._scaled(each, layer) for each in drawn]

    def _estimator(self, method: str) -> Any:
        if method != "weighted_mean":
            return getattr(estimators, method)
        up, down = self._confidence
        return partial(estimators.weighted_mean, positive_weights=up, negative_weights=down)

    @cached_property
    def _confidence(self) -> tuple[Tensor, Tensor]:
        """Weights: the model's own logit difference on each prompt, 0 where it is negative."""
        weights = []
        for sense in (1, 0):  # the prompts of the first side are those steered to the second
            task = self.case.train[sense]
            base = steering.sweep(
                self.model, steering.Direction.from_tensor(torch.ones(self.model.cfg.d_model), layer=0), task,
                [0.0], metric=LogitDiff(), with_controls=False, progress=False,
            )["clean"]  # fmt: skip
            by_row = {tuple(row): -float(v) for row, v in zip(task.clean.tolist(), base)}
            prompts = self.case.up if sense == 1 else self.case.down
            weights.append(torch.tensor([max(by_row[tuple(row)], 0.0) for row in prompts.tokens.tolist()]))
        return weights[0].double(), weights[1].double()

    def _class_mean(self, layer: int, sense: int, generator: torch.Generator | None) -> Tensor:
        """Mean of the class steered to, minus the mean of the other classes' means."""
        rows = [self.rows[name][layer] for name in ("up", "down", "third")]
        if generator is not None:
            dealt = torch.cat(rows)[torch.randperm(sum(map(len, rows)), generator=generator)]
            rows = list(dealt.split([len(part) for part in rows]))
        means = [part.mean(0) for part in rows]
        return self._scaled(means[sense] - (means[1 - sense] + means[2]) / 2, layer)

    def _pair(self, layer: int, sense: int, i: int, j: int, same_side: bool = False) -> Tensor:
        """Prompt i minus prompt j, position by position."""
        sides = (self.case.up, self.case.down) if sense == 0 else (self.case.down, self.case.up)
        one, two = sides[0], sides[0] if same_side else sides[1]
        ids = [side.tokens[at, : int(side.lengths[at])] for side, at in ((one, i), (two, j))]
        found = steering.methods.prompt_pair(self.model, *ids, layer=layer).vector.double()
        return self._scaled(found, layer)

    def _optimised(self, layer: int, sense: int, draw: int | None) -> Tensor:
        """Learnt on prompts of the side that is steered, to say words of the other."""
        generator = torch.Generator().manual_seed(0 if draw is None else 1 + draw)
        mine, other = self.case.train[sense], self.case.train[1 - sense]
        rows, words = _learnt(mine, PROMPTS)
        if draw is not None:
            rows, words = _learnt(mine, PROMPTS // 2)
            more, said = _learnt(other, PROMPTS // 2)
            turned = torch.randperm(PROMPTS, generator=generator) < PROMPTS // 2
            rows, pairs = [*rows, *more], [*words, *said]
            words = [(b, a) if turn else (a, b) for (a, b), turn in zip(pairs, turned.tolist())]
        real = [torch.tensor(right) for right, _ in words]
        picked = [row[int(torch.randint(len(row), (1,), generator=generator))] for row in real]
        direction = steering.optimise(
            self.model, rows, torch.stack(picked), layer=layer,
            max_norm=self.gap[layer], steps=STEPS, lr=RATE, seed=0 if draw is None else 1 + draw,
        )  # fmt: skip
        return self._scaled(direction.vector.double(), layer)

    def _scaled(self, vector: Tensor, layer: int) -> Tensor:
        """At the median norm of the stream; for one by position, the longest of its rows."""
        length = vector.norm(dim=-1).max().clamp(min=1e-12)
        return vector.double() / length * self.norm[layer]


def _learnt(task: Task, n: int) -> tuple[list[list[int]], list[tuple[list[int], list[int]]]]:
    """The first n prompts, and the words of the side steered to and of their own."""
    some = task[:n]
    rows = [row[:length] for row, length in zip(some.clean.tolist(), some.lengths.tolist())]
    words = [[[i for i in row if i >= 0] for row in ids.tolist()] for ids in (some.answers, some.wrongs)]
    return rows, list(zip(*words))
