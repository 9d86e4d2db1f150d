"""Peak memory of a call above what was there before it: the system's count on the CPU, torch's on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import memory
import torch


def peak(call: Callable[[], Any], device: str, repeats: int = 3) -> int:
    """Bytes; the median of some runs."""
    return int(statistics.median(_once(call, device) for _ in range(repeats)))


def _once(call: Callable[[], Any], device: str) -> int:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    memory.reset()
    before = memory.resident("VmRSS")
    call()
    return memory.resident("VmHWM") - before
