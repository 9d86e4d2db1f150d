"""One self-contained HTML page from figures, results and text. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.report._effects import Comparison as Comparison
    from interp.report._page import write as write
    from interp.report._run import Run as Run
    from interp.report._run import save as save

__all__ = ["Comparison", "Run", "save", "write"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.report._effects": ("Comparison",),
        "interp.report._page": ("write",),
        "interp.report._run": ("Run", "save"),
    },
)
