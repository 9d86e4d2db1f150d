"""Numbers about results: means, normalised effects, intervals and tests over prompts, summaries, agreement.

Every function takes the Dataset that a method returns and gives a Dataset. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.stats._emergence import fit_emergence as fit_emergence
    from interp.stats._intervals import bootstrap as bootstrap
    from interp.stats._means import mean as mean
    from interp.stats._means import normalise as normalise
    from interp.stats._pairs import NearlyNoEffect as NearlyNoEffect
    from interp.stats._pairs import agreement as agreement
    from interp.stats._pairs import difference as difference
    from interp.stats._significance import test as test
    from interp.stats._summary import power as power
    from interp.stats._summary import summary as summary
    from interp.stats._summary import verify as verify
    from interp.stats._units import MIN_CLUSTERS as MIN_CLUSTERS

__all__ = [
    "MIN_CLUSTERS",
    "NearlyNoEffect",
    "agreement",
    "bootstrap",
    "difference",
    "fit_emergence",
    "mean",
    "normalise",
    "power",
    "summary",
    "test",
    "verify",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.stats._emergence": ("fit_emergence",),
        "interp.stats._intervals": ("bootstrap",),
        "interp.stats._means": ("mean", "normalise"),
        "interp.stats._pairs": ("NearlyNoEffect", "agreement", "difference"),
        "interp.stats._significance": ("test",),
        "interp.stats._summary": ("power", "summary", "verify"),
        "interp.stats._units": ("MIN_CLUSTERS",),
    },
)
