"""Intervals over prompts: the bootstrap, clustered by what was drawn independently.

The units are those of `interp.stats._units`: pairs that share a text are one, and templates where there are
enough. They are drawn with replacement, and the statistic is computed anew in every draw, numerator and
denominator together. By default the interval is BCa with expanded tails, which covers best where effects are
skewed or units few (docs/statistics.md has the table); `interp.stats._resample` has the formulas.

The attributes `resampled`, `n_resampled` and `n_clusters` say what was drawn.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp._verbs import verb
from interp.places import hint
from interp.stats._means import RATIO, blocks, fill, mean, require_result
from interp.stats._resample import METHODS, ends
from interp.stats._units import ratio, sums, units_of

STATISTICS = ("mean", "normalised")


@verb
def bootstrap(
    result: xr.Dataset,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    statistic: str = "mean",
    cluster: str | None = "template",
    *,
    method: str = "bca",
) -> xr.Dataset:
    """Estimate and interval of every cell: variables `estimate`, `low`, `high`, without the prompt dim.

    n: draws. statistic: "mean" (units of the metric) or "normalised" (ratio of means). cluster: a coordinate
    on prompts whose values are drawn whole; "template" takes templates where there are at least 10, else
    pairs that share a text; None draws prompts (too narrow for mirrored pairs). method: "bca" or
    "percentile", both with expanded tails. The same arguments give the same numbers.

    The attribute `clipped` counts cells all of whose draws were on one side of the estimate: their bias
    correction is only a bound. Cells without spread have their estimate as both ends; of cells that some
    prompts do not have (NaN), the others are drawn. Warns, and gives NaN, for a normalised value whose mean
    clean - corrupt could be 0. Raises ValueError for what is no result, for fewer than two units and for
    settings out of range.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=8), "z", progress=False)
        >>> found = interp.stats.bootstrap(result, n=200)
        >>> bool((found["low"] <= found["estimate"]).all()), found.attrs["n_resampled"]
        (True, 4)
    """
    for name, value, known in (("statistic", statistic, STATISTICS), ("method", method, METHODS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}{hint(value, known)}")
    require_result(result, statistic)
    if n < 100:
        raise ValueError(f"n is {n}; an interval needs at least 100 resamples (1000 is the default).")
    units = units_of(result, cluster)
    if units.n < 2:
        raise ValueError(
            f"{result.sizes['prompt']} prompt(s) are {units.n} independent unit ({units}); an interval needs "
            "at least 2. Use more prompts."
        )
    base = mean(result)
    names = ("estimate", "low", "high")
    out = xr.Dataset({name: base["value"].astype(float).copy() for name in names}, attrs=base.attrs)
    out = out.assign({name: base[name] for name in ("clean", "corrupt", "empty") if name in base})
    clipped = 0
    for where, effect, full in blocks(result, statistic, cluster):
        numerator, denominator = sums(effect, full, units)
        interval = ends(numerator, denominator, n, level, seed, method)
        clipped += interval.clipped
        columns = (_estimate(numerator, denominator), interval.low, interval.high)
        for name, column in zip(names, columns):
            fill(out[name], where, column)
    drawn = {"resampled": units.kind, "n_resampled": units.n}
    drawn |= {} if units.n_clusters is None else {"n_clusters": units.n_clusters}
    return out.assign_attrs(
        statistic=statistic, level=level, n_resamples=n, bootstrap_seed=seed, interval=method,
        clipped=clipped, normalisation=RATIO if statistic == "normalised" else "none", **drawn,
    )  # fmt: skip


def _estimate(
    numerator: Float[np.ndarray, "unit cell"], denominator: Float[np.ndarray, "unit #cell"]
) -> Float[np.ndarray, "cell"]:
    """The ratio of the sums over the units that have the cell; NaN where none has."""
    total = np.nansum(numerator, 0)
    total[np.isnan(numerator).all(0)] = np.nan
    return ratio(total, denominator.sum(0))
