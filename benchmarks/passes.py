"""Counting passes: forwards by what the embedding is asked for, backwards by the calls of autograd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Counts of "forward" and "backward" while the block runs."""
    count = {"forward": 0, "backward": 0}
    original = torch.autograd.grad

    def forward(module: Any, inputs: Any, output: Any) -> None:
        count["forward"] += 1

    def grad(*args: Any, **options: Any) -> Any:
        count["backward"] += 1
        return original(*args, **options)

    handle = model.embed.register_forward_hook(forward)
    torch.autograd.grad = grad
    try:
        yield count
    finally:
        handle.remove()
        torch.autograd.grad = original
