"""Numbers about results: means, normalised effects, intervals over prompts, agreement of two results.

Every function takes the Dataset that a method returns and gives a Dataset. No torch.
"""

from interp.stats.agree import agreement as agreement
from interp.stats.intervals import MIN_CLUSTERS as MIN_CLUSTERS
from interp.stats.intervals import bootstrap as bootstrap
from interp.stats.means import mean as mean
from interp.stats.means import normalise as normalise

__all__ = ["MIN_CLUSTERS", "agreement", "bootstrap", "mean", "normalise"]
