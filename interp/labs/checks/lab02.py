"""Lab 02, attribution: checks of `first_order`, `agreement`, `guess`, `integrated`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference

# first_order: [..., token, d] → [..., token]


@reference
def _first_order(gradient: Tensor, base: Tensor, other: Tensor) -> Tensor:
    return (gradient * (other - base)).sum(-1)


@cache
def _streams() -> tuple[Tensor, Tensor, Tensor]:
    """Of tiny-ioi before layer 1: the gradient in the corrupt run, the corrupt and the clean stream."""
    import interp

    loaded, kept = model("tiny-ioi"), []
    task = interp.tasks.ioi(loaded, n=8, seed=0, template=0)
    name, rows = "blocks.1.hook_resid_pre", torch.arange(8)
    for tokens in (task.corrupt, task.clean):
        hooks = [(name, lambda value, hook: kept.append(value))]
        logits = loaded.run_with_hooks(tokens, fwd_hooks=hooks)
        if len(kept) == 1:
            metric = logits[rows, task.positions, task.answer] - logits[rows, task.positions, task.wrong]
            (gradient,) = torch.autograd.grad(metric.sum(), kept)
    return gradient, kept[0].detach(), kept[1].detach()


def _order_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return (
            torch.tensor([[1.0, 2.0], [0.0, 3.0]]),
            torch.ones(2, 2),
            torch.tensor([[2.0, 3.0], [9.0, 0.0]]),
        )

    two = "token 0: 1·(2 − 1) + 2·(3 − 1) = 5; token 1: 0·(9 − 1) + 3·(0 − 1) = −3"
    return [
        Case(by_hand, "two tokens by hand", two),
        Case(lambda: tuple(drawn(3, 4, 5, seed=seed) for seed in range(3)), "random tensors"),
        Case(lambda: tuple(value.clone() for value in _streams()), "the stream of tiny-ioi before layer 1"),
    ]


first_order = Exercise(
    "first_order",
    _first_order,
    _order_cases,
    lambda right: f"the largest guess before layer 1 of tiny-ioi is {right.mean(0).max():.1f} logits",
)


@first_order.mistake("the step goes the wrong way: it is other minus base")
def _order_turned(gradient: Tensor, base: Tensor, other: Tensor) -> Tensor:
    return _first_order(gradient, other, base)


@first_order.mistake("this is gradient times activation; the step is the difference of the two runs")
def _order_no_step(gradient: Tensor, base: Tensor, other: Tensor) -> Tensor:
    return (gradient * other).sum(-1)


@first_order.mistake("the numbers of a vector must be summed: one value a token")
def _order_no_sum(gradient: Tensor, base: Tensor, other: Tensor) -> Tensor:
    return gradient * (other - base)


@first_order.mistake("this is the mean over the vector; slopes times steps add up, so sum")
def _order_mean(gradient: Tensor, base: Tensor, other: Tensor) -> Tensor:
    return (gradient * (other - base)).mean(-1)


# agreement → (pearson, relative L1)


@reference
def _agreement(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    return _pearson(estimate, exact), float((estimate - exact).abs().sum() / exact.abs().sum())


def _pearson(estimate: Tensor, exact: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([estimate.flatten(), exact.flatten()]))[0, 1])


def _agree_cases() -> list[Case]:
    def on_model() -> tuple[Any, ...]:
        gradient, base, other = _streams()
        return (gradient * (other - base)).sum(-1).mean(0), _exact().clone()

    return [
        Case(
            lambda: (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])),
            "three cells by hand",
            "guesses of one half of everything: Pearson 1, relative L1 (1 + 2 + 3) / 12 = 0.5",
        ),
        Case(lambda: (drawn(4, 5) + 1, drawn(4, 5, seed=1)), "random cells"),
        Case(on_model, "the stream of tiny-ioi before layer 1"),
    ]


@cache
def _exact() -> Tensor:
    import interp

    loaded = model("tiny-ioi")
    task = interp.tasks.ioi(loaded, n=8, seed=0, template=0)
    result = interp.patch(loaded, task, "resid_pre", progress=False)
    return torch.tensor(result["value"].mean("prompt").sel(layer=1).values).float()


agreement = Exercise(
    "agreement",
    _agreement,
    _agree_cases,
    lambda right: f"before layer 1 of tiny-ioi Pearson is {right[0]:.3f} and relative L1 {right[1]:.3f}",
)


@agreement.mistake("the means are not subtracted: that is a cosine and not Pearson's correlation")
def _agree_cosine(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    cosine = (estimate * exact).sum() / (estimate.norm() * exact.norm())
    return float(cosine), _agreement(estimate, exact)[1]


@agreement.mistake("relative L1 is divided by the estimates; divide by what is true, Σ |exact|")
def _agree_by_estimate(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    return _pearson(estimate, exact), float((estimate - exact).abs().sum() / estimate.abs().sum())


@agreement.mistake("this is a mean of ratios; cells near 0 rule it. Sum first, divide once")
def _agree_ratios(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    return _pearson(estimate, exact), float(((estimate - exact).abs() / exact.abs()).mean())


@agreement.mistake("differences of both signs cancel: take the absolute value before the sum")
def _agree_cancel(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    return _pearson(estimate, exact), float((estimate - exact).sum().abs() / exact.abs().sum())


@agreement.mistake("Pearson is squared here")
def _agree_squared(estimate: Tensor, exact: Tensor) -> tuple[float, float]:
    return _pearson(estimate, exact) ** 2, _agreement(estimate, exact)[1]


# guess and integrated: a function of one number → a number

Function = Callable[[Tensor], Tensor]


def _slope(f: Function, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x), x)[0]


def _bent(x: Tensor) -> Tensor:
    return torch.relu(x - 1)


def _between() -> Function:
    """The logit difference of tiny-ioi's first pair as a function of the way from the corrupt to the
    clean stream.
    """
    import interp

    loaded = model("tiny-ioi")
    task = interp.tasks.ioi(loaded, n=8, seed=0, template=0)[0]
    _, base, other = _streams()

    def metric(share: Tensor) -> Tensor:
        put = lambda value, hook: base[:1] + share * (other - base)[:1]  # noqa: E731
        logits = loaded.run_with_hooks(task.corrupt, fwd_hooks=[("blocks.1.hook_resid_pre", put)])
        return (
            logits[0, task.positions[0], task.answer[0]] - logits[0, task.positions[0], task.wrong[0]]
        ).squeeze()

    return metric


def _ends() -> tuple[Tensor, Tensor]:
    return torch.tensor(0.0), torch.tensor(1.0)


@reference
def _guess(f: Function, x0: Tensor, x1: Tensor) -> float:
    return float(_slope(f, x0) * (x1 - x0))


def _guess_cases() -> list[Case]:
    return [
        Case(
            lambda: (lambda x: x * x, torch.tensor(1.0), torch.tensor(3.0)),
            "x² from 1 to 3",
            "slope 2 at 1, step 2: 4 (the truth is 8)",
        ),
        Case(
            lambda: (_bent, torch.tensor(0.0), torch.tensor(3.0)),
            "relu(x − 1) from 0 to 3",
            "slope 0 at 0, step 3: 0 (the truth is 2)",
        ),
        Case(lambda: (torch.exp, torch.tensor(0.5), torch.tensor(-1.0)), "exp from 0.5 to −1"),
        Case(lambda: (_between(), *_ends()), "tiny-ioi, from the corrupt to the clean stream"),
    ]


guess = Exercise(
    "guess",
    _guess,
    _guess_cases,
    lambda right: f"at relu(x − 1) it is 0 where the truth is 2; on a pair of tiny-ioi {right:.1f} logits",
)


@guess.mistake("the slope is taken at x1; take it where you stand, at x0")
def _guess_far(f: Function, x0: Tensor, x1: Tensor) -> float:
    return float(_slope(f, x1) * (x1 - x0))


@guess.mistake("this is the exact change; the exercise wants the guess from one slope")
def _guess_exact(f: Function, x0: Tensor, x1: Tensor) -> float:
    return float(f(x1) - f(x0))


@guess.mistake("this is the slope alone; multiply it by the step x1 − x0")
def _guess_slope(f: Function, x0: Tensor, x1: Tensor) -> float:
    return float(_slope(f, x0))


@reference
def _integrated(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return _along(f, x0, x1, [(i + 0.5) / steps for i in range(steps)])


def _along(f: Function, x0: Tensor, x1: Tensor, shares: list[float]) -> float:
    slopes = [_slope(f, x0 + share * (x1 - x0)) for share in shares]
    return float(sum(slopes) / len(slopes) * (x1 - x0))


def _integrated_cases() -> list[Case]:
    return [
        Case(
            lambda: (_bent, torch.tensor(0.0), torch.tensor(3.0), 3),
            "relu(x − 1) from 0 to 3 in 3 steps",
            "points 0.5, 1.5, 2.5 with slopes 0, 1, 1: mean 2/3, times 3 is 2, the truth",
        ),
        Case(lambda: (torch.exp, torch.tensor(0.5), torch.tensor(-1.0), 4), "exp from 0.5 to −1 in 4 steps"),
        Case(lambda: (_between(), *_ends(), 5), "tiny-ioi, from the corrupt to the clean stream, in 5 steps"),
    ]


integrated = Exercise(
    "integrated",
    _integrated,
    _integrated_cases,
    lambda right: f"2 at relu(x − 1), which is right; on the pair of tiny-ioi {right:.1f} logits",
)


@integrated.mistake("the points are the left ends of the parts; take the middles, (i + 0.5) / steps")
def _integrated_left(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return _along(f, x0, x1, [i / steps for i in range(steps)])


@integrated.mistake("the points are the right ends of the parts; take the middles, (i + 0.5) / steps")
def _integrated_right(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return _along(f, x0, x1, [(i + 1) / steps for i in range(steps)])


@integrated.mistake("the slopes are summed; their mean is wanted, so divide by steps")
def _integrated_sum(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return steps * _integrated(f, x0, x1, steps)


@integrated.mistake("all slopes are taken at x0: move x along the way")
def _integrated_fixed(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return _guess(f, x0, x1)


@integrated.mistake("this is the exact change; the exercise wants it from slopes")
def _integrated_exact(f: Function, x0: Tensor, x1: Tensor, steps: int) -> float:
    return float(f(x1) - f(x0))
