"""How many cells above a threshold a screen can have missed, from a random sample of those it left out."""

from __future__ import annotations

from math import floor


def missed_at_most(above: int, sampled: int, population: int, confidence: float) -> int:
    """Upper bound on the cells above the threshold among those never measured.

    Of `population` cells `sampled` were drawn at random and measured, and `above` of them lie above the
    threshold. The share of the population above it is, with the given confidence, at most the one-sided
    Clopper-Pearson bound (drawing without replacement only makes it safer).
    """
    from scipy.stats import beta

    if not 0 <= above <= sampled <= population:
        raise ValueError(
            f"{above} cells above of {sampled} sampled of {population}: each must be at most the next."
        )
    unmeasured = population - sampled
    share = 1.0 if above == sampled else float(beta.ppf(confidence, above + 1, sampled - above))
    return min(unmeasured, max(0, floor(share * population) - above))
