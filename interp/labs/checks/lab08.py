"""Lab 08, a real model: checks of `by_unit`, `chosen`, `interval`, `attention_to`.

They run on tiny-ioi, so that they are quick and need no model that was not fetched.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference


@cache
def _effects() -> tuple[Tensor, Tensor, Tensor]:
    """Of tiny-ioi: the effect of every head on every prompt, [prompt, layer, head]; units; corrected p."""
    import interp

    loaded = model("tiny-ioi")
    result = interp.patch(loaded, interp.tasks.ioi(loaded, n=16, seed=0), "z", progress=False)
    p = interp.stats.test(result)["p"].fillna(1.0).transpose("layer", "head")
    return torch.tensor(result["value"].values), torch.tensor(result["unit"].values), torch.tensor(p.values)


# by_unit: [prompt, ...], [prompt] → [unit, ...]


@reference
def _by_unit(effects: Tensor, unit: Tensor) -> Tensor:
    return torch.stack([effects[unit == u].mean(0) for u in unit.unique()])


def _unit_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        effects, unit, _ = _effects()
        return effects.clone(), unit.clone()

    return [
        Case(
            lambda: (torch.tensor([[1.0], [5.0], [3.0], [6.0], [7.0]]), torch.tensor([0, 2, 0, 2, 2])),
            "five prompts of two units by hand",
            "unit 0: (1 + 3) / 2 = 2; unit 2: (5 + 6 + 7) / 3 = 6",
        ),
        Case(lambda: (drawn(6, 2, 3), torch.tensor([3, 1, 1, 0, 3, 3])), "random effects"),
        Case(on_model, "tiny-ioi's heads"),
    ]


by_unit = Exercise(
    "by_unit",
    _by_unit,
    _unit_cases,
    lambda right: f"16 prompts of tiny-ioi are {len(right)} independent draws",
)


@by_unit.mistake("these are sums; take the mean of each unit")
def _unit_sum(effects: Tensor, unit: Tensor) -> Tensor:
    return torch.stack([effects[unit == u].sum(0) for u in unit.unique()])


@by_unit.mistake("two neighbours are averaged; read in unit which prompts belong together")
def _unit_neighbours(effects: Tensor, unit: Tensor) -> Tensor:
    return effects[: len(effects) // 2 * 2].unflatten(0, (-1, 2)).mean(1)


@by_unit.mistake("the mean goes over all dimensions; only the prompts of a unit are averaged")
def _unit_all(effects: Tensor, unit: Tensor) -> Tensor:
    return torch.stack([effects[unit == u].mean() for u in unit.unique()])


@by_unit.mistake("the first prompt of each unit is taken; take the mean of its prompts")
def _unit_first(effects: Tensor, unit: Tensor) -> Tensor:
    return torch.stack([effects[unit == u][0] for u in unit.unique()])


# chosen: [layer, head] twice, a number → a list of (layer, head)


@reference
def _chosen(mean: Tensor, p: Tensor, k: int) -> list[tuple[int, int]]:
    return _sorted(mean.abs(), p < 0.05)[:k]


def _sorted(size: Tensor, passing: Tensor) -> list[tuple[int, int]]:
    places = [(layer, head) for layer, head in passing.nonzero().tolist()]
    return sorted(places, key=lambda place: -float(size[place]))


def _chosen_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        mean = torch.tensor([[9.0, 1.0, -3.0], [2.0, 0.5, 8.0]])
        return mean, torch.tensor([[0.2, 0.01, 0.03], [0.04, 0.01, 0.6]]), 3

    def on_model() -> tuple[Any, ...]:
        effects, _, p = _effects()
        return effects.mean(0), p.clone(), 3

    text = "9 and 8 do not pass; of 1, −3, 2, 0.5 the three largest are (0, 2), (1, 0), (0, 1)"
    return [
        Case(by_hand, "six heads by hand", text),
        Case(lambda: (drawn(4, 5), drawn(4, 5, seed=1).abs() / 8, 4), "random heads"),
        Case(on_model, "tiny-ioi's heads"),
    ]


chosen = Exercise(
    "chosen",
    _chosen,
    _chosen_cases,
    lambda right: "on tiny-ioi it chooses " + ", ".join(f"L{layer}H{head}" for layer, head in right),
)


@chosen.mistake("p is not used: the largest are taken whether they stand out or not")
def _chosen_largest(mean: Tensor, p: Tensor, k: int) -> list[tuple[int, int]]:
    return _sorted(mean.abs(), p >= 0)[:k]


@chosen.mistake("negative effects are left behind: sort by |mean|")
def _chosen_signed(mean: Tensor, p: Tensor, k: int) -> list[tuple[int, int]]:
    return _sorted(mean, p < 0.05)[:k]


@chosen.mistake("these are the smallest first")
def _chosen_smallest(mean: Tensor, p: Tensor, k: int) -> list[tuple[int, int]]:
    return _sorted(-mean.abs(), p < 0.05)[:k]


@chosen.mistake("they are sorted by p; sort those that pass by the size of the effect")
def _chosen_by_p(mean: Tensor, p: Tensor, k: int) -> list[tuple[int, int]]:
    return _sorted(-p, p < 0.05)[:k]


# interval: [unit], a number → (mean, low, high)


@reference
def _interval(values: Tensor, quantile: float) -> tuple[float, float, float]:
    return _around(values, quantile * float(values.std()) / len(values) ** 0.5)


def _around(values: Tensor, half: float) -> tuple[float, float, float]:
    mean = float(values.mean())
    return mean, mean - half, mean + half


def _interval_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        effects, unit, _ = _effects()
        return torch.stack([effects[unit == u, 0, 0].mean() for u in unit.unique()]), 2.365

    text = "mean 4, standard deviation 2.58, √4 = 2: 4 ± 3 · 2.58 / 2, from 0.13 to 7.87"
    return [
        Case(lambda: (torch.tensor([1.0, 3.0, 5.0, 7.0]), 3.0), "four units by hand", text),
        Case(lambda: (drawn(9) + 1, 2.3), "random units"),
        Case(on_model, "the head L0H0 of tiny-ioi"),
    ]


interval = Exercise(
    "interval",
    _interval,
    _interval_cases,
    lambda right: f"L0H0 of tiny-ioi: {right[0]:.1f} logits, from {right[1]:.1f} to {right[2]:.1f}",
)


@interval.mistake("this is the spread of single units; the mean of n is √n times surer: divide by n ** 0.5")
def _interval_spread(values: Tensor, quantile: float) -> tuple[float, float, float]:
    return _around(values, quantile * float(values.std()))


@interval.mistake("this divides by n; divide by its root")
def _interval_n(values: Tensor, quantile: float) -> tuple[float, float, float]:
    return _around(values, quantile * float(values.std()) / len(values))


@interval.mistake("the standard deviation is that of a whole population; of a sample it is divided by n − 1")
def _interval_population(values: Tensor, quantile: float) -> tuple[float, float, float]:
    return _around(values, quantile * float(values.std(correction=0)) / len(values) ** 0.5)


@interval.mistake("the quantile is not used: that is one standard error")
def _interval_error(values: Tensor, quantile: float) -> tuple[float, float, float]:
    return _around(values, float(values.std()) / len(values) ** 0.5)


# attention_to: [prompt, head, query, key], [prompt] twice → [prompt, head]


@reference
def _attention_to(pattern: Tensor, end: Tensor, src: Tensor) -> Tensor:
    return pattern[torch.arange(len(end)), :, end, src]


@cache
def _pattern() -> tuple[Tensor, Tensor, Tensor]:
    import interp

    loaded = model("tiny-ioi")
    task = interp.tasks.ioi(loaded, n=12, seed=0)  # of all templates: they end at different tokens
    with torch.no_grad():
        pattern = loaded.run_with_cache(task.clean)[1]["blocks.2.attn.hook_pattern"]
    return pattern, task.positions, task.spans["io"].int().argmax(1)


def _attention_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        rows = [[1.0, 0, 0], [0.3, 0.7, 0], [0.2, 0.5, 0.3]]
        return torch.tensor([rows, rows])[:, None], torch.tensor([2, 1]), torch.tensor([1, 0])

    def random() -> tuple[Any, ...]:
        return drawn(3, 2, 5, 5).softmax(-1), torch.tensor([4, 2, 3]), torch.tensor([0, 2, 1])

    text = "prompt 0: from 2 to 1 is 0.5; prompt 1: from 1 to 0 is 0.3"
    return [
        Case(by_hand, "two prompts of three tokens by hand", text),
        Case(random, "random attention"),
        Case(lambda: tuple(value.clone() for value in _pattern()), "layer 2 of tiny-ioi"),
    ]


attention_to = Exercise(
    "attention_to",
    _attention_to,
    _attention_cases,
    lambda right: (
        f"in tiny-ioi's layer 2 heads look at the answer's name with up to {right.mean(0).max():.2f}"
    ),
)


@attention_to.mistake("query and key are exchanged: in [query, key] the key is the last")
def _attention_turned(pattern: Tensor, end: Tensor, src: Tensor) -> Tensor:
    return _attention_to(pattern, src, end)


@attention_to.mistake("this reads from the last token of every row; prompt i answers at end[i]")
def _attention_last(pattern: Tensor, end: Tensor, src: Tensor) -> Tensor:
    return pattern[torch.arange(len(end)), :, -1, src]


@attention_to.mistake("the mean goes over heads; each head has its own")
def _attention_heads(pattern: Tensor, end: Tensor, src: Tensor) -> Tensor:
    return _attention_to(pattern, end, src).mean(1)


@attention_to.mistake("every prompt is read at every other prompt's tokens: index with torch.arange too")
def _attention_every(pattern: Tensor, end: Tensor, src: Tensor) -> Tensor:
    return pattern[:, :, end, src]
