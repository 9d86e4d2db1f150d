"""Exact activation patching."""

from __future__ import annotations

from interp.patching._sweep import patch as patch
from interp.patching._sweep import plan as plan

__all__ = ["patch", "plan"]
