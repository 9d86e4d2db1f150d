"""Exact activation patching: single cells, pairs of them, and knock-outs over several tasks."""

from __future__ import annotations

from interp.patching._knockouts import knockouts as knockouts
from interp.patching._pairs import pairs as pairs
from interp.patching._sweep import patch as patch

__all__ = ["knockouts", "pairs", "patch"]
