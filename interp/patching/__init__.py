"""Exact activation patching."""

from __future__ import annotations

from interp.patching.corruption import Gaussian as Gaussian
from interp.patching.corruption import Mean as Mean
from interp.patching.corruption import Tokens as Tokens
from interp.patching.corruption import Zero as Zero
from interp.patching.sweep import patch as patch
from interp.patching.sweep import plan as plan

__all__ = ["Gaussian", "Mean", "Tokens", "Zero", "patch", "plan"]
