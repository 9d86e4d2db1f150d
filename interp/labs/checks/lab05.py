"""Lab 05, steering: checks of `mean_difference`, `add_at`, `kl`, `effect_at`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference


@cache
def _reviews() -> tuple[Tensor, Tensor, Tensor]:
    """Of tiny-world: the stream before layer 3 at the last word of good and of bad reviews, and logits
    there.
    """
    import interp

    loaded = model("tiny-world")
    task = interp.tasks.sentiment(loaded, n=24, seed=0, held_out=False)
    with torch.no_grad():
        logits, cache = loaded.run_with_cache(task.clean)
    rows = torch.arange(len(task))
    good = (task.answers == loaded.to_single_token("wonderful")).any(1)
    stream = cache["blocks.3.hook_resid_pre"][rows, task.positions]
    return stream[good], stream[~good], logits[rows, task.positions]


# mean_difference: [n, d], [m, d] → [d]


@reference
def _mean_difference(good: Tensor, bad: Tensor) -> Tensor:
    return good.mean(0) - bad.mean(0)


def _mean_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]])

    def on_model() -> tuple[Any, ...]:
        good, bad, _ = _reviews()
        return good.clone(), bad.clone()

    return [
        Case(by_hand, "two good and three bad by hand", "(2, 6) − (1, 1) = (1, 5)"),
        Case(lambda: (drawn(4, 3), drawn(6, 3, seed=1)), "random vectors"),
        Case(on_model, "tiny-world's reviews before layer 3"),
    ]


mean_difference = Exercise(
    "mean_difference",
    _mean_difference,
    _mean_cases,
    lambda right: f"before layer 3 of tiny-world it has length {right.norm():.1f}",
)


@mean_difference.mistake("this is bad minus good; adding it would make reviews worse")
def _mean_turned(good: Tensor, bad: Tensor) -> Tensor:
    return bad.mean(0) - good.mean(0)


@mean_difference.mistake("it is scaled to length 1; its length is the gap between the classes, keep it")
def _mean_unit(good: Tensor, bad: Tensor) -> Tensor:
    difference = good.mean(0) - bad.mean(0)
    return difference / difference.norm()


@mean_difference.mistake("the mean is over all numbers; take it over reviews, the first dimension")
def _mean_all(good: Tensor, bad: Tensor) -> Tensor:
    return (good.mean() - bad.mean()).expand(good.shape[1])


@mean_difference.mistake("these are sums; classes of different sizes need means")
def _mean_sums(good: Tensor, bad: Tensor) -> Tensor:
    return good.sum(0) - bad.sum(0)


@mean_difference.mistake(
    "the mean is over the last dimension, the numbers of one vector; it goes over reviews"
)
def _mean_last(good: Tensor, bad: Tensor) -> Tensor:
    return good.mean(-1).mean() - bad.mean(-1).mean()


# add_at: [prompt, word, d] → [prompt, word, d]


@reference
def _add_at(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    return _pushed(
        value, direction, coefficient, (start + torch.arange(value.shape[1]))[None] >= first[:, None]
    )


def _pushed(value: Tensor, direction: Tensor, coefficient: float, on: Tensor) -> Tensor:
    return value + coefficient * on[:, :, None] * direction


def _add_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.zeros(1, 3, 1), torch.tensor([10.0]), 2.0, 4, torch.tensor([5])

    def on_model() -> tuple[Any, ...]:
        good, bad, _ = _reviews()
        return good[:6].view(2, 3, -1).clone(), good[0] - bad[0], 0.5, 7, torch.tensor([8, 20])

    text = "the words stand at places 4, 5, 6; those from 5 on get 2 · 10: (0, 20, 20)"
    return [
        Case(by_hand, "three words in a second pass, by hand", text),
        Case(lambda: (drawn(2, 4, 3), drawn(3, seed=1), -1.5, 0, torch.tensor([1, 3])), "a first pass"),
        Case(lambda: (drawn(2, 1, 3), drawn(3, seed=1), 1.0, 6, torch.tensor([4, 7])), "one word a pass"),
        Case(on_model, "vectors of tiny-world"),
    ]


add_at = Exercise(
    "add_at",
    _add_at,
    _add_cases,
    lambda right: "words are counted from the start of the text, 1 count for all passes, cached or not",
    may_change=(0,),
)


@add_at.mistake(
    "places are counted from the start of this pass: with a cache the wrong word is steered. Add start"
)
def _add_in_pass(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    return _pushed(value, direction, coefficient, torch.arange(value.shape[1])[None] >= first[:, None])


@add_at.mistake("every word is pushed, whatever first says")
def _add_all(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    return value + coefficient * direction


@add_at.mistake("only the word at first is pushed; those after it should be too")
def _add_one(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    place = (start + torch.arange(value.shape[1]))[None]
    return _pushed(value, direction, coefficient, place == first[:, None])


@add_at.mistake("the word at first itself is left out: at first or later is >=")
def _add_after(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    place = (start + torch.arange(value.shape[1]))[None]
    return _pushed(value, direction, coefficient, place > first[:, None])


@add_at.mistake("the coefficient is not used")
def _add_bare(value: Tensor, direction: Tensor, coefficient: float, start: int, first: Tensor) -> Tensor:
    place = (start + torch.arange(value.shape[1]))[None]
    return _pushed(value, direction, 1.0, place >= first[:, None])


# kl: logits [prompt, word] twice → [prompt]


@reference
def _kl(before: Tensor, after: Tensor) -> Tensor:
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _kl_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()

    def on_model() -> tuple[Any, ...]:
        logits = _reviews()[2]
        return logits[:8].clone(), logits[8:16].clone()

    text = "½ log(0.5 / 0.25) + ½ log(0.5 / 0.75) = 0.144 nats, and 0 where nothing changed"
    return [
        Case(by_hand, "two predictions over two words by hand", text),
        Case(lambda: (drawn(4, 6), 2 * drawn(4, 6, seed=1) + 3), "random logits"),
        Case(on_model, "predictions of tiny-world for different reviews"),
    ]


kl = Exercise("kl", _kl, _kl_cases, lambda right: f"two different reviews are {right.mean():.1f} nats apart")


@kl.mistake("this is KL(after ‖ before): weigh with the probabilities of before")
def _kl_turned(before: Tensor, after: Tensor) -> Tensor:
    return _kl(after, before)


@kl.mistake("this is a mean over the vocabulary; KL is a sum")
def _kl_mean(before: Tensor, after: Tensor) -> Tensor:
    return _kl(before, after) / before.shape[-1]


@kl.mistake("logits are not log-probabilities: log_softmax them first")
def _kl_logits(before: Tensor, after: Tensor) -> Tensor:
    return (before.softmax(-1) * (before - after)).sum(-1)


@kl.mistake("this is the mean over prompts; keep one value a prompt")
def _kl_prompts(before: Tensor, after: Tensor) -> Tensor:
    return _kl(before, after).mean()


@kl.mistake("the sign is turned: p (log p − log q), which is never negative in sum")
def _kl_negative(before: Tensor, after: Tensor) -> Tensor:
    return -_kl(before, after)


# effect_at: [rung] twice and a number → a number


@reference
def _effect_at(effects: Tensor, costs: Tensor, target: float) -> float:
    i = int((costs >= target).nonzero()[0])
    share = (target - costs[i - 1]) / (costs[i] - costs[i - 1])
    return float(effects[i - 1] + share * (effects[i] - effects[i - 1]))


def _effect_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([0.0, 4.0, 6.0, 9.0]), torch.tensor([0.0, 0.1, 0.3, 0.5]), 0.15

    def on_model() -> tuple[Any, ...]:
        logits = _reviews()[2]
        before, after = logits[:1], logits[1:2]
        shares = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
        mixed = before + shares[:, None] * (after - before)  # [rung, word]
        log_p, log_q = before.log_softmax(-1), mixed.log_softmax(-1)
        costs = (log_p.exp() * (log_p - log_q)).sum(-1)
        return mixed[:, 5] - before[:, 5], costs, float(costs[-1]) * 0.7

    def random() -> tuple[Any, ...]:
        return drawn(6), drawn(6, seed=1).abs().cumsum(0) - drawn(6, seed=1).abs()[0], 1.3

    text = "0.15 lies a quarter of the way from 0.1 to 0.3, so the effect is 4 and a quarter of 2: 4.5"
    return [
        Case(by_hand, "four rungs by hand", text),
        Case(random, "random ladders"),
        Case(on_model, "a ladder between two predictions of tiny-world"),
    ]


effect_at = Exercise(
    "effect_at",
    _effect_at,
    _effect_cases,
    lambda right: f"only now can directions be compared; here it was {right:.2f} logits",
)


@effect_at.mistake("this is the rung above; go between the two rungs in a straight line")
def _effect_above(effects: Tensor, costs: Tensor, target: float) -> float:
    return float(effects[int((costs >= target).nonzero()[0])])


@effect_at.mistake("this is the rung below; go between the two rungs in a straight line")
def _effect_below(effects: Tensor, costs: Tensor, target: float) -> float:
    return float(effects[int((costs >= target).nonzero()[0]) - 1])


@effect_at.mistake("this is half way between the rungs, wherever the target lies")
def _effect_half(effects: Tensor, costs: Tensor, target: float) -> float:
    i = int((costs >= target).nonzero()[0])
    return float(effects[i - 1 : i + 1].mean())


@effect_at.mistake("this is a line from the first to the last rung; use the two rungs around the target")
def _effect_line(effects: Tensor, costs: Tensor, target: float) -> float:
    return float(effects[0] + (effects[-1] - effects[0]) * (target - costs[0]) / (costs[-1] - costs[0]))


@effect_at.mistake("this is the largest effect on the ladder; take the one at the target's cost")
def _effect_largest(effects: Tensor, costs: Tensor, target: float) -> float:
    return float(effects.max())
