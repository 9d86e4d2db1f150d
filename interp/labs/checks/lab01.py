"""Lab 01, patching: checks of `logit_diff`, `put_clean`, `sweep`, `normalised`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.labs._exercise import Case, Exercise, drawn, model, reference


@cache
def _task() -> Any:
    """Prompts of all templates, so that not all answer at one position."""
    import interp

    return interp.tasks.ioi(model("tiny-ioi"), n=24, seed=0)


# logit_diff: [prompt, token, word] → [prompt]


@reference
def _logit_diff(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    rows = torch.arange(len(answer))
    return logits[rows, positions, answer] - logits[rows, positions, wrong]


def _logit_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        logits = torch.tensor([[[1.0, 4.0, 2.0], [0.0, 5.0, 3.0]], [[7.0, 1.0, 2.0], [2.0, 0.0, 9.0]]])
        return logits, torch.tensor([1, 0]), torch.tensor([2, 1]), torch.tensor([1, 0])

    def random() -> tuple[Any, ...]:
        ids = torch.tensor([[3, 1, 0, 6], [2, 5, 4, 3], [4, 0, 2, 1]])
        return drawn(4, 5, 7), *ids

    def on_model() -> tuple[Any, ...]:
        task = _task()
        with torch.no_grad():
            logits = model("tiny-ioi")(task.clean)
        return logits, task.answer, task.wrong, task.positions

    two = "prompt 0 answers at token 1: 5 − 3 = 2; prompt 1 at token 0: 7 − 1 = 6"
    return [
        Case(by_hand, "two prompts by hand", two),
        Case(random, "four random prompts"),
        Case(on_model, "tiny-ioi, prompts of several lengths"),
    ]


logit_diff = Exercise(
    "logit_diff",
    _logit_diff,
    _logit_cases,
    lambda right: f"on the clean prompts of tiny-ioi it is {right.mean():.1f} logits on average",
)


@logit_diff.mistake("this is the mean over prompts; the sweep needs one value a prompt")
def _logit_mean(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    return _logit_diff(logits, answer, wrong, positions).mean()


@logit_diff.mistake("this reads the last token of every prompt; a prompt answers at positions[i]")
def _logit_last(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    return _logit_diff(logits, answer, wrong, torch.full_like(positions, logits.shape[1] - 1))


@logit_diff.mistake("this is wrong minus answer; positive must mean that the model is right")
def _logit_turned(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    return _logit_diff(logits, wrong, answer, positions)


@logit_diff.mistake("these are differences of probabilities; leave out the softmax")
def _logit_prob(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    return _logit_diff(logits.softmax(-1), answer, wrong, positions)


@logit_diff.mistake(
    "every prompt is read with every answer: index with torch.arange(len(answer)), not with a colon"
)
def _logit_every(logits: Tensor, answer: Tensor, wrong: Tensor, positions: Tensor) -> Tensor:
    return logits[:, positions, answer] - logits[:, positions, wrong]


# put_clean: [prompt, token, d] → [prompt, token, d]


@reference
def _put_clean(value: Tensor, clean: Tensor, pos: int) -> Tensor:
    patched = value.clone()
    patched[:, pos] = clean[:, pos]
    return patched


def _put_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[10.0], [20.0], [30.0]]]), 1

    def on_model() -> tuple[Any, ...]:
        task, name = _task(), "blocks.1.hook_resid_pre"
        with torch.no_grad():
            pair = [model("tiny-ioi").run_with_cache(x)[1][name].clone() for x in (task.corrupt, task.clean)]
        return *pair, 5

    return [
        Case(by_hand, "three tokens by hand", "[1, 2, 3] with token 1 of [10, 20, 30]: [1, 20, 3]"),
        Case(lambda: (drawn(3, 4, 2), drawn(3, 4, 2, seed=1), 0), "three random prompts"),
        Case(on_model, "the stream of tiny-ioi before layer 1"),
    ]


put_clean = Exercise(
    "put_clean",
    _put_clean,
    _put_cases,
    lambda right: f"one vector of {right.shape[-1]} numbers a prompt is exchanged, and nothing else",
    may_change=(0,),
    in_place="you changed the clean cache in place, and later patches would use what is left: clone first",
)


@put_clean.mistake("the base run is the clean one here: you are noising. Start from value, not from clean")
def _put_noise(value: Tensor, clean: Tensor, pos: int) -> Tensor:
    return _put_clean(clean, value, pos)


@put_clean.mistake("all tokens are patched; only pos should be")
def _put_all(value: Tensor, clean: Tensor, pos: int) -> Tensor:
    return clean.clone()


@put_clean.mistake("the clean vector is added to the corrupt one; it should take its place")
def _put_sum(value: Tensor, clean: Tensor, pos: int) -> Tensor:
    added = value.clone()
    added[:, pos] = value[:, pos] + clean[:, pos]
    return added


@put_clean.mistake("pos is used for the prompt; the token is the second dimension: [:, pos]")
def _put_prompt(value: Tensor, clean: Tensor, pos: int) -> Tensor:
    patched = value.clone()
    patched[pos] = clean[pos]
    return patched


# sweep: run_patched(layer, pos) → [layer, token, prompt]

Run = Callable[[int, int], Tensor]


@reference
def _sweep(
    run_patched: Callable[[int, int], Tensor], corrupt: Tensor, n_layers: int, n_tokens: int
) -> Tensor:
    return _runs(run_patched, n_layers, n_tokens) - corrupt


def _runs(run_patched: Run, n_layers: int, n_tokens: int) -> Tensor:
    rows = [torch.stack([run_patched(row, pos) for pos in range(n_tokens)]) for row in range(n_layers)]
    return torch.stack(rows)


def _sweep_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return lambda layer, pos: torch.tensor([10.0 * layer + pos, 100.0]), torch.tensor([1.0, 2.0]), 2, 3

    def random() -> tuple[Any, ...]:
        values = drawn(3, 4, 5)
        return lambda layer, pos: values[layer, pos].clone(), drawn(5, seed=1), 3, 4

    def on_model() -> tuple[Any, ...]:
        return _run_patched, _corrupt(), 3, 4

    two = "layer 1, token 2: the first prompt gives 12 − 1 = 11, the second 100 − 2 = 98"
    return [
        Case(by_hand, "two prompts by hand", two),
        Case(random, "random runs"),
        Case(on_model, "tiny-ioi, the last four tokens of one template"),
    ]


@cache
def _aligned() -> Any:
    import interp

    return interp.tasks.ioi(model("tiny-ioi"), n=8, seed=0, template=0)


def _corrupt() -> Tensor:
    task = _aligned()
    with torch.no_grad():
        return _logit_diff(model("tiny-ioi")(task.corrupt), task.answer, task.wrong, task.positions)


def _run_patched(layer: int, pos: int) -> Tensor:
    """Patch one of the last four tokens; works without the references, which refuse while a student's
    runs.
    """
    task, name = _aligned(), f"blocks.{layer}.hook_resid_pre"
    token = task.clean.shape[1] - 4 + pos
    source = _clean_cache()[name]

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, token] = source[:, token]
        return value

    with torch.no_grad():
        logits = model("tiny-ioi").run_with_hooks(task.corrupt, fwd_hooks=[(name, put)])
    rows = torch.arange(len(task))
    return logits[rows, task.positions, task.answer] - logits[rows, task.positions, task.wrong]


@cache
def _clean_cache() -> Any:
    with torch.no_grad():
        return model("tiny-ioi").run_with_cache(_aligned().clean)[1]


sweep = Exercise(
    "sweep",
    _sweep,
    _sweep_cases,
    lambda right: (
        f"the largest effect of these cells is {right.mean(-1).max():.1f} logits, at the last token"
    ),
)


@sweep.mistake("this is the mean over prompts; keep one value a prompt, means come later")
def _sweep_mean(run_patched: Any, corrupt: Tensor, n_layers: int, n_tokens: int) -> Tensor:
    return (_runs(run_patched, n_layers, n_tokens) - corrupt).mean(-1)


@sweep.mistake("this is the patched run itself; the effect is patched minus corrupt")
def _sweep_raw(run_patched: Any, corrupt: Tensor, n_layers: int, n_tokens: int) -> Tensor:
    return _runs(run_patched, n_layers, n_tokens)


@sweep.mistake("this is corrupt minus patched; positive must mean that the patch helps")
def _sweep_turned(run_patched: Any, corrupt: Tensor, n_layers: int, n_tokens: int) -> Tensor:
    return corrupt - _runs(run_patched, n_layers, n_tokens)


@sweep.mistake("layers and tokens are exchanged: the outer loop goes over layers")
def _sweep_exchanged(run_patched: Any, corrupt: Tensor, n_layers: int, n_tokens: int) -> Tensor:
    return (_runs(run_patched, n_layers, n_tokens) - corrupt).transpose(0, 1)


@sweep.mistake("prompts come first here; the order is [layer, token, prompt]")
def _sweep_prompts_first(run_patched: Any, corrupt: Tensor, n_layers: int, n_tokens: int) -> Tensor:
    return (_runs(run_patched, n_layers, n_tokens) - corrupt).permute(2, 0, 1)


# normalised: [layer, token, prompt] → [layer, token]


@reference
def _normalised(effects: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return effects.mean(-1) / (clean - corrupt).mean()


def _normalised_cases() -> list[Case]:
    def by_hand() -> tuple[Any, ...]:
        return torch.tensor([[[1.0, 3.0]]]), torch.tensor([1.0, 7.0]), torch.tensor([0.0, 2.0])

    def random() -> tuple[Any, ...]:
        return drawn(2, 3, 6), drawn(6, seed=1) + 3, drawn(6, seed=2) - 1

    def on_model() -> tuple[Any, ...]:
        runs, task = _runs(_run_patched, 3, 4), _aligned()
        with torch.no_grad():
            clean = _logit_diff(model("tiny-ioi")(task.clean), task.answer, task.wrong, task.positions)
        return runs - _corrupt(), clean, _corrupt()

    return [
        Case(by_hand, "two prompts by hand", "mean effect 2, mean difference (1 + 5) / 2 = 3: 2 / 3 = 0.667"),
        Case(random, "random effects"),
        Case(on_model, "tiny-ioi"),
    ]


normalised = Exercise(
    "normalised",
    _normalised,
    _normalised_cases,
    lambda right: f"the last token before layer 1 brings back {right[1, -1]:.0%} of the answer",
)


@normalised.mistake("this is a mean of ratios; take both means first and divide once")
def _normalised_ratios(effects: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return (effects / (clean - corrupt)).mean(-1)


@normalised.mistake("this divides by the clean run; divide by clean minus corrupt")
def _normalised_clean(effects: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return effects.mean(-1) / clean.mean()


@normalised.mistake("this keeps the prompts; take the mean over them, the last dimension")
def _normalised_prompts(effects: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return effects / (clean - corrupt).mean()


@normalised.mistake("corrupt is subtracted twice: effects are patched minus corrupt already")
def _normalised_twice(effects: Tensor, clean: Tensor, corrupt: Tensor) -> Tensor:
    return (effects - corrupt).mean(-1) / (clean - corrupt).mean()
