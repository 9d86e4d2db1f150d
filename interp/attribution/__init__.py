"""Estimates of activation patching: gradients, relevance, two-point slopes, and the direct path.

`attribute` estimates every cell of a grid, `screen` measures the largest of them; `direct` and `relevance`
split a metric over components and tokens. `gradients` and `relevance_rules` serve passes of your own. The
methods are values of `interp.methods`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.attribution._by_hooks import gradients as gradients
    from interp.attribution._direct import direct as direct
    from interp.attribution._estimate import attribute as attribute
    from interp.attribution._relevance import relevance as relevance
    from interp.attribution._screen import screen as screen
    from interp.attribution.rules import relevance_rules as relevance_rules

__all__ = ["attribute", "direct", "gradients", "relevance", "relevance_rules", "screen"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.attribution._direct": ("direct",),
        "interp.attribution._estimate": ("attribute",),
        "interp.attribution._by_hooks": ("gradients",),
        "interp.attribution._relevance": ("relevance",),
        "interp.attribution._screen": ("screen",),
        "interp.attribution.rules": ("relevance_rules",),
    },
)
