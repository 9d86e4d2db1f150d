"""The live page: results that answer clicks, in one file, in a notebook, or with a model behind them.

`explore` is also `interp.explore`. docs/explore.md says what a click shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.live._answers import Answers as Answers
    from interp.live._page import Page as Page
    from interp.live._page import explore as explore
    from interp.live._serve import Server as Server
    from interp.live._serve import serve as serve

__all__ = ["Answers", "Page", "Server", "explore", "serve"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.live._answers": ("Answers",),
        "interp.live._page": ("Page", "explore"),
        "interp.live._serve": ("Server", "serve"),
    },
)
