"""Lab 06, when patching misleads: checks of `patch_along`, `mean_ablate`, `strangeness`, `max_t`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference


@cache
def _streams() -> tuple[Tensor, Tensor]:
    """The stream of tiny-world before layer 2 on clean and on corrupt prompts, [prompt, token, d]."""
    import interp

    loaded = model("tiny-world")
    task = interp.tasks.ioi(loaded, n=12, seed=0, template=0)
    with torch.no_grad():
        pair = [
            loaded.run_with_cache(tokens)[1]["blocks.2.hook_resid_pre"]
            for tokens in (task.clean, task.corrupt)
        ]
    return pair[0], pair[1]


# patch_along: [prompt, d] twice, [d] → [prompt, d]


@reference
def _patch_along(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return h + _part(source - h, v)


def _part(x: Tensor, v: Tensor) -> Tensor:
    unit = v / v.norm()
    return (x @ unit)[:, None] * unit


def _along_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[5.0, 0.0, 5.0]]), torch.tensor([1.0, 1.0, 0.0])

    def on_model() -> tuple[Any, ...]:
        clean, corrupt = (value[:, -1].clone() for value in _streams())
        return corrupt, clean, drawn(clean.shape[-1])

    text = "parts along v: (0.5, 0.5, 0) out, (2.5, 2.5, 0) in: (3, 2, 1)"
    return [
        Case(by_hand, "one prompt by hand", text),
        Case(lambda: (drawn(3, 4), drawn(3, 4, seed=1), 3 * drawn(4, seed=2)), "random vectors"),
        Case(on_model, "tiny-world's stream along a random direction"),
    ]


patch_along = Exercise(
    "patch_along",
    _patch_along,
    _along_cases,
    lambda right: f"1 direction of {right.shape[-1]} is exchanged; all that is at right angles to it stays",
)


@patch_along.mistake("v is not scaled to length 1: divide by its norm")
def _along_long(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return h + ((source - h) @ v)[:, None] * v


@patch_along.mistake("the source's part is added and h's own stays: take it out first")
def _along_added(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return h + _part(source, v)


@patch_along.mistake("all of the source is taken; only its part along v should be")
def _along_whole(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return source.clone()


@patch_along.mistake("h and source are exchanged: the part along v comes from source, the rest from h")
def _along_turned(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return source + _part(h - source, v)


@patch_along.mistake("what is left is only the part along v; the rest of h must stay")
def _along_only(h: Tensor, source: Tensor, v: Tensor) -> Tensor:
    return _part(source, v)


# mean_ablate: [prompt, token, d] → the same


@reference
def _mean_ablate(value: Tensor, reference: Tensor) -> Tensor:
    return reference.mean(0).expand_as(value)


def _ablate_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        reference = torch.tensor([[[1.0], [10.0]], [[3.0], [30.0]], [[5.0], [50.0]]])
        return torch.tensor([[[7.0], [7.0]], [[0.0], [9.0]]]), reference

    def on_model() -> tuple[Any, ...]:
        clean, corrupt = _streams()
        return clean[:5].clone(), corrupt.clone()

    text = "token 0: (1 + 3 + 5) / 3 = 3, token 1: 30, for both prompts"
    return [
        Case(by_hand, "two prompts of two tokens by hand", text),
        Case(lambda: (drawn(2, 3, 4), drawn(5, 3, 4, seed=1)), "random activations"),
        Case(on_model, "tiny-world's stream before layer 2"),
    ]


mean_ablate = Exercise(
    "mean_ablate",
    _mean_ablate,
    _ablate_cases,
    lambda right: f"every prompt now has the same {right.shape[1]} vectors, 1 a token",
)


@mean_ablate.mistake("this is zero ablation: it takes away constants too")
def _ablate_zero(value: Tensor, reference: Tensor) -> Tensor:
    return torch.zeros_like(value)


@mean_ablate.mistake("the mean goes over tokens as well; each token has its own")
def _ablate_tokens(value: Tensor, reference: Tensor) -> Tensor:
    return reference.mean((0, 1)).expand_as(value)


@mean_ablate.mistake("this is the mean of value itself; it should be of the reference prompts")
def _ablate_own(value: Tensor, reference: Tensor) -> Tensor:
    return value.mean(0).expand_as(value)


@mean_ablate.mistake("the mean goes over the numbers of a vector; it should go over prompts")
def _ablate_numbers(value: Tensor, reference: Tensor) -> Tensor:
    return reference.mean(-1, keepdim=True).mean(0).expand_as(value)


@mean_ablate.mistake("the mean is taken away from value; it should take its place")
def _ablate_centred(value: Tensor, reference: Tensor) -> Tensor:
    return value - reference.mean(0)


# strangeness: [prompt, d], [n, d] → [prompt]


@reference
def _strangeness(x: Tensor, usual: Tensor) -> Tensor:
    return ((x - usual.mean(0)) / usual.std(0)).pow(2).mean(-1).sqrt()


def _strange_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[5.0, 3.0], [3.0, 9.0]]), torch.tensor([[-1.0, 1.0], [1.0, 3.0], [3.0, 5.0]])

    def on_model() -> tuple[Any, ...]:
        clean, corrupt = _streams()
        return corrupt[:, -1].clone(), clean[:, -1].clone()

    text = "means (1, 3), standard deviations (2, 2): prompt 0 is (2, 0) away, √((4 + 0) / 2) = 1.41"
    return [
        Case(by_hand, "two prompts by hand", text),
        Case(lambda: (drawn(4, 5), 2 * drawn(9, 5, seed=1) + 1), "random activations"),
        Case(on_model, "tiny-world's stream at the last token"),
    ]


strangeness = Exercise(
    "strangeness",
    _strangeness,
    _strange_cases,
    lambda right: f"corrupt prompts are {right.mean():.2f} standard deviations away on tiny-world: at home",
)


@strangeness.mistake("this divides by the variance; divide by the standard deviation, its root")
def _strange_variance(x: Tensor, usual: Tensor) -> Tensor:
    return ((x - usual.mean(0)) / usual.var(0)).pow(2).mean(-1).sqrt()


@strangeness.mistake("the mean is not subtracted")
def _strange_origin(x: Tensor, usual: Tensor) -> Tensor:
    return (x / usual.std(0)).pow(2).mean(-1).sqrt()


@strangeness.mistake(
    "nothing is divided by the standard deviations: numbers that always vary a lot rule the rest"
)
def _strange_raw(x: Tensor, usual: Tensor) -> Tensor:
    return (x - usual.mean(0)).pow(2).mean(-1).sqrt()


@strangeness.mistake("the root is missing")
def _strange_square(x: Tensor, usual: Tensor) -> Tensor:
    return _strangeness(x, usual).pow(2)


@strangeness.mistake("this is the length, a sum; take the mean over d, so that usual is about 1")
def _strange_length(x: Tensor, usual: Tensor) -> Tensor:
    return _strangeness(x, usual) * x.shape[-1] ** 0.5


# max_t: [cell, prompt], [draw, prompt] → a number


def _t(x: Tensor) -> Tensor:
    return x.mean(-1) / (x.std(-1) / x.shape[-1] ** 0.5)


def _share(draws: list[Tensor], observed: Tensor) -> float:
    return float((1 + (torch.stack(draws) >= observed).sum()) / (1 + len(draws)))


@reference
def _max_t(effects: Tensor, signs: Tensor) -> float:
    return _share([_t(effects * row).abs().max() for row in signs], _t(effects).abs().max())


def _t_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        effects = torch.tensor([[-3.0, -2.0, -4.0, -3.0], [-4.0, -6.0, 3.0, 4.0]])
        return effects, torch.tensor([[1.0, 1, 1, 1], [-1, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, -1]])

    def random() -> tuple[Any, ...]:
        return drawn(6, 8, seed=2) * torch.tensor([1.0, 1, 1, 3, 0.3, 1])[:, None] + 0.3, _signs(99, 8)

    def on_model() -> tuple[Any, ...]:
        clean, corrupt = _streams()
        return (clean - corrupt)[::2, -1].T[:24].clone(), _signs(19, 6)

    text = "|t| is 7.35 and 0.30; of the draws' largest, 7.35, 0.96, 1.48 and 6.76, one reaches 7.35: 2 / 5"
    return [
        Case(by_hand, "two cells by hand", text),
        Case(random, "six cells of different spread"),
        Case(on_model, "24 numbers of tiny-world's stream, six pairs"),
    ]


def _signs(draws: int, prompts: int) -> Tensor:
    return torch.randint(2, (draws, prompts), generator=torch.Generator().manual_seed(1)) * 2.0 - 1.0


max_t = Exercise(
    "max_t",
    _max_t,
    _t_cases,
    lambda right: f"of 24 cells the largest has p = {right:.2f}; 19 draws can show 0.05 at the least",
)


@max_t.mistake("one cell is tested as if it were alone: take the largest |t| over all cells in every draw")
def _t_alone(effects: Tensor, signs: Tensor) -> float:
    picked = effects[_t(effects).abs().argmax()]
    return _share([_t(picked * row).abs() for row in signs], _t(picked).abs())


@max_t.mistake("the experiment itself is not counted, so that p can be 0: add 1 above and below")
def _t_bare(effects: Tensor, signs: Tensor) -> float:
    draws = torch.stack([_t(effects * row).abs().max() for row in signs])
    return float((draws >= _t(effects).abs().max()).float().mean())


@max_t.mistake("only positive t count here: take the absolute value before the largest")
def _t_one_sided(effects: Tensor, signs: Tensor) -> float:
    return _share([_t(effects * row).max() for row in signs], _t(effects).max())


@max_t.mistake("these are means; a cell with a large spread rules them. Divide by std / √n")
def _t_means(effects: Tensor, signs: Tensor) -> float:
    return _share([(effects * row).mean(-1).abs().max() for row in signs], effects.mean(-1).abs().max())


@max_t.mistake("this counts the draws that are smaller; count those that are at least as large")
def _t_turned(effects: Tensor, signs: Tensor) -> float:
    draws = torch.stack([_t(effects * row).abs().max() for row in signs])
    return float((1 + (draws < _t(effects).abs().max()).sum()) / (1 + len(signs)))
