"""Peak memory of a sweep above what the process held before, as the operating system sees it (Linux)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interp


def table(model: Any, task_of: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Peaks for two budgets and numbers of prompts."""
    rows = []
    for prompts, budget in ((1, 2**31), (8, 2**31), (8, 2**29)):
        task = task_of(prompts)
        reset()
        before = resident("VmRSS")
        interp.patch(model, task, "resid_pre", memory=budget, progress=False)
        rows.append({"prompts": prompts, "budget": budget, "peak": resident("VmHWM") - before})
    return rows


def reset() -> None:
    """Give freed memory back to the system, then set the high-water mark to the present."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
