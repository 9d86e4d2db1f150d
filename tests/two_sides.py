"""The two sides of a task of tiny-world, tasks with exchanged answers, and calls that must run no pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from interp.tasks import Task, vocabulary


def sides(model: Any, task: Task, word: str) -> tuple[Task, Task]:
    """The prompts that the word answers, and the others."""
    on = (task.answers == vocabulary.continuation(model, f" {word}")).any(1)
    return task[on.nonzero().flatten()], task[(~on).nonzero().flatten()]


def exchanged(task: Task) -> Task:
    """The same prompts, asked for what is wrong in them: an effect towards the other side is positive."""
    return Task.from_tokens(
        clean=task.clean, corrupt=task.corrupt, answer=task.wrongs, wrong=task.answers,
        lengths=task.lengths, positions=task.positions,
    )  # fmt: skip


@contextmanager
def no_pass(model: Any) -> Iterator[None]:
    """Fails where a forward pass is started."""

    def fail(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        raise AssertionError("a forward pass was started")

    model.add_hook("hook_embed", fail)
    try:
        yield
    finally:
        model.reset_hooks()


def refused(model: Any, cases: list[tuple[Callable[[], Any], str]]) -> None:
    """Every call is a ValueError that says so, before any pass."""
    with no_pass(model):
        for call, match in cases:
            with pytest.raises(ValueError, match=match):
                call()
