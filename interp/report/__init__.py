"""One self-contained HTML page from figures, results and text. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.report._effects import Comparison as Comparison
    from interp.report._page import write as write

__all__ = ["Comparison", "write"]

__getattr__, __dir__ = lazy(
    __name__, {"interp.report._effects": ("Comparison",), "interp.report._page": ("write",)}
)
