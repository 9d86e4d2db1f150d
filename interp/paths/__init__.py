"""Paths: what goes from where to where. `path_patch` measures, `trace_back` follows a circuit back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.paths._patch import path_patch as path_patch
    from interp.paths._trace import Trace as Trace
    from interp.paths._trace import trace_back as trace_back

__all__ = ["Trace", "path_patch", "trace_back"]

__getattr__, __dir__ = lazy(
    __name__,
    {"interp.paths._patch": ("path_patch",), "interp.paths._trace": ("Trace", "trace_back")},
)
