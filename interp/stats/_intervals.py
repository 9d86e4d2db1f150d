"""Intervals over prompts: the bootstrap.

Prompts (or clusters of prompts) are resampled with replacement, the statistic is computed anew in every
resample, numerator and denominator both, and the interval lies between two percentiles of it. The
percentiles are those of Hesterberg (2015, arXiv:1411.5279): for G resampled units the tail is
Phi(-sqrt(G / (G - 1)) t(G - 1)) rather than 2.5 %, because plain percentiles are too narrow by that factor
(tests/stats/test_intervals.py measures the coverage).

Clusters: prompts that share a template are not independent draws. Where the `template` coordinate repeats and
has at least MIN_CLUSTERS values, templates are resampled whole. With fewer, an interval over templates cannot
be trusted, so prompts are resampled and the interval is about new prompts from the same templates; the attrs
`resampled`, `n_resampled` and `n_clusters` say which it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr, stdtrit

from interp._verbs import verb
from interp.places import nearest
from interp.stats._means import RATIO, blocks, fill, mean, on_prompts, ratio, require_result, sums

MIN_CLUSTERS = 10
STATISTICS = ("mean", "normalised")
_CELLS_AT_ONCE = 2048


@verb
def bootstrap(
    result: xr.Dataset,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    statistic: str = "mean",
    cluster: str | None = "template",
) -> xr.Dataset:
    """Estimate and interval of every cell: variables `estimate`, `low`, `high`, without the prompt dim.

    `statistic` is "mean" (units of the metric) or "normalised" (ratio of means). `cluster` names a coordinate
    on prompts, or None to resample prompts whatever their template. The same arguments give the same numbers.
    Raises ValueError for what is no result, for fewer than two prompts and for settings out of range.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=8), "z", progress=False)
        >>> ends = interp.stats.bootstrap(result, n=200)
        >>> bool((ends["low"] <= ends["estimate"]).all())
        True
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}; it must be one of {', '.join(STATISTICS)}.")
    require_result(result, statistic)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95.")
    if n < 100:
        raise ValueError(f"n is {n}; an interval needs at least 100 resamples (1000 is the default).")
    group, attrs = _groups(result, cluster)
    n_groups = int(group.max()) + 1
    tail = _tail(level, n_groups)
    counts = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)
    base = mean(result)
    names = ("estimate", "low", "high")
    out = xr.Dataset({name: base["value"].astype(float).copy() for name in names}, attrs=base.attrs)
    out = out.assign({name: base[name] for name in ("clean", "corrupt", "empty") if name in base})
    for where, effect, full in blocks(result, statistic):
        numerator, denominator = sums(effect, full, group)
        estimate = ratio(numerator.sum(0), denominator.sum(0))
        ends = _interval(numerator, denominator, counts.astype(float), tail)
        for name, column in zip(names, (estimate, *ends)):
            fill(out[name], where, column)
    attrs["normalisation"] = RATIO if statistic == "normalised" else "none"
    return out.assign_attrs(statistic=statistic, level=level, n_resamples=n, bootstrap_seed=seed, **attrs)


def _interval(
    numerator: np.ndarray, denominator: np.ndarray, counts: np.ndarray, tail: float
) -> tuple[np.ndarray, np.ndarray]:
    """The two percentiles of the resampled ratio, by cell."""
    n_cells = numerator.shape[1]
    ends = np.full((2, n_cells), np.nan)
    shared = denominator.shape[1] == 1
    for start in range(0, n_cells, _CELLS_AT_ONCE):
        columns = np.arange(start, min(start + _CELLS_AT_ONCE, n_cells))
        columns = columns[~np.isnan(numerator[:, columns]).any(0)]
        below = denominator if shared else denominator[:, columns]
        draws = ratio(numerator[:, columns].T @ counts.T, below.T @ counts.T)  # [cell, resample]
        whole = ~np.isnan(draws).any(1)
        ends[:, columns[whole]] = np.quantile(draws[whole], (tail, 1 - tail), axis=1)
    return ends[0], ends[1]


def _tail(level: float, n_groups: int) -> float:
    """The tail probability of the expanded percentile interval."""
    t = -stdtrit(n_groups - 1, (1 - level) / 2)
    return float(ndtr(-t * np.sqrt(n_groups / (n_groups - 1))))


def _groups(result: xr.Dataset, cluster: str | None) -> tuple[np.ndarray, dict[str, Any]]:
    """The resampled unit of each prompt, and what to say about it."""
    n_prompts = result.sizes["prompt"]
    if n_prompts < 2:
        raise ValueError(
            "the result has 1 prompt; an interval over prompts needs at least 2. Use more prompts."
        )
    known = [str(name) for name in result.coords if name != "prompt" and on_prompts(result, name)]
    if cluster not in (None, "template") and cluster not in known:
        close = nearest(str(cluster), known)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(f"cluster is {cluster!r}, but the coordinates on prompts are {known}.{hint}")
    if cluster is None or cluster not in known:
        return np.arange(n_prompts), {"resampled": "prompt", "n_resampled": n_prompts}
    group = np.unique(result[cluster].values.astype(str), return_inverse=True)[1].ravel()
    n_clusters = int(group.max()) + 1
    if n_clusters == n_prompts or n_clusters < MIN_CLUSTERS:
        note = {"resampled": "prompt", "n_resampled": n_prompts, "n_clusters": n_clusters}
        return np.arange(n_prompts), note
    return group, {"resampled": cluster, "n_resampled": n_clusters, "n_clusters": n_clusters}
