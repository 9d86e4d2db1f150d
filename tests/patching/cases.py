"""Tasks of random prompts for the patching tests."""

from __future__ import annotations

from typing import Any

import architectures

from interp.tasks import Task


def task(first: int = 3, n: int = 6, **options: Any) -> Task:
    """n pairs of 9 random tokens that differ from position `first` on, two to a template."""
    clean, corrupt = architectures.tokens(first, n_prompts=n)
    options = {"template": [f"t{i // 2}" for i in range(n)]} | options
    return Task.from_tokens(
        clean=clean, corrupt=corrupt, answer=list(range(3, 3 + n)), wrong=list(range(15, 15 + n)), **options
    )


QUIET: dict[str, Any] = {"progress": False}
