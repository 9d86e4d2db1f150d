"""Checks of numbers that are given to interventions, before any pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def allowed_start(start: int | str) -> None:
    """ValueError unless `inject` can start there."""
    if start not in ("mid", "back") and (isinstance(start, str) or start < 0):
        raise ValueError(
            f"start is {start!r}; use a position counted from the first real token, 0, or 'mid' or 'back'."
        )


def finite(name: str, value: Any) -> None:
    """ValueError unless a number or tensor is finite."""
    good = torch.isfinite(value).all() if isinstance(value, Tensor) else math.isfinite(value)
    if not bool(good):
        raise ValueError(f"{name} is {value}; it must be finite.")
