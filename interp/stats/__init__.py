"""Numbers about results: means, normalised effects, intervals and tests over prompts, agreement.

Every function takes the Dataset that a method returns and gives a Dataset. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.stats._intervals import MIN_CLUSTERS as MIN_CLUSTERS
    from interp.stats._intervals import bootstrap as bootstrap
    from interp.stats._means import mean as mean
    from interp.stats._means import normalise as normalise
    from interp.stats._pairs import NearlyNoEffect as NearlyNoEffect
    from interp.stats._pairs import agreement as agreement
    from interp.stats._pairs import difference as difference
    from interp.stats._significance import power as power
    from interp.stats._significance import summary as summary
    from interp.stats._significance import test as test

__all__ = [
    "MIN_CLUSTERS",
    "NearlyNoEffect",
    "agreement",
    "bootstrap",
    "difference",
    "mean",
    "normalise",
    "power",
    "summary",
    "test",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.stats._intervals": ("MIN_CLUSTERS", "bootstrap"),
        "interp.stats._means": ("mean", "normalise"),
        "interp.stats._pairs": ("NearlyNoEffect", "agreement", "difference"),
        "interp.stats._significance": ("power", "summary", "test"),
    },
)
