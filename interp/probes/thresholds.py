"""Thresholds that keep a stated rate of false alarms, and what a probe does at one.

The scores of n negatives that no fit and no choice saw, sorted: θ is the ⌈(n + 1)(1 − α)⌉-th smallest, and
what is above it fires. Then the expected rate of false alarms on exchangeable negatives is at most α, at any
n; the (1 − α) quantile does not keep that. With n < 1/α − 1 no such θ is among the scores: refused.

Rows of one document, user or template are not exchangeable with rows of another. So the unit is said: with
groups, θ is of the *largest* score of each group ("a conversation is flagged"), and n counts groups;
`per="row"` takes one random row of each group. Vovk et al. 2005 (conformal prediction).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp import results
from interp._verbs import verb
from interp.stats._shares import check_level, share_interval

__all__ = ["Threshold", "operating", "threshold"]
PER = ("group", "row")


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Threshold:
    """A score above which a probe fires. rate: of false alarms, per `per`; n: units it was calibrated on."""

    value: float
    rate: float
    per: str
    n: int


@verb
def threshold(
    negatives: Any, rate: float, *, groups: Sequence[Any] | None = None, per: str = "group", seed: int = 0
) -> Threshold:
    """The threshold that keeps false alarms at `rate` on negatives like these.

    negatives: scores of prompts without the thing, that neither fitted nor chose the probe. rate: the
    expected share of false alarms. groups: a label of each score (its document, user, template). per: with
    groups, "group" (a group is flagged when its largest score is above) or "row" (one row of each group is
    drawn, by `seed`).

    Raises ValueError for a rate outside 0 to 1, scores that are not finite, and too few units, with the
    number that is needed.

    Example:
        >>> interp.probes.thresholds.threshold([0.1, 0.4, 0.2, 0.3], 0.2).value
        0.4
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate is {rate}; give a share of false alarms between 0 and 1, such as 0.01.")
    if per not in PER:
        raise ValueError(f"per is {per!r}; use 'group' or 'row'.")
    units = _units(_scores(negatives, "negatives"), groups, per, seed)
    n, needed = len(units), math.ceil(1 / rate - 1 - 1e-9)
    if n < needed:
        what = "groups" if groups is not None else "negatives"
        raise ValueError(
            f"{n} {what} cannot keep a rate of {rate}: {needed} or more are needed. Give more, or a "
            "higher rate."
        )
    place = math.ceil((n + 1) * (1 - rate) - 1e-9)  # from 1
    return Threshold(float(np.sort(units)[place - 1]), float(rate), per if groups is not None else "row", n)


@verb
def operating(
    threshold: float | int | Threshold,
    positives: Any,
    negatives: Any,
    *,
    groups: tuple[Sequence[Any], Sequence[Any]] | None = None,
    prevalence: float | None = None,
    level: float = 0.95,
) -> xr.Dataset:
    """What a threshold does on prompts of a third part: rates with exact intervals, over groups where given.

    positives, negatives: scores of prompts that neither the fit nor the threshold saw. groups: labels (of the
    positives, of the negatives); a group counts once, by its largest score. prevalence: the share of
    positives where the probe is used, for `precision`.

    Returns a Dataset with dim class ("positive", "negative"): `value`, the share that fires (true and false
    positive rate), its Clopper-Pearson interval `low`, `high`, and `n`, units. Scores that are not finite
    fire, and `not_finite` counts them. `precision` by Bayes' rule where prevalence is given. Raises
    ValueError for no scores.

    Example:
        >>> found = interp.probes.thresholds.operating(0.5, [0.9, 0.8, 0.1], [0.2, 0.6], prevalence=0.01)
        >>> found["value"].values.round(2).tolist(), round(float(found["precision"]), 3)
        ([0.67, 0.5], 0.013)
    """
    check_level(level)
    theta = threshold.value if isinstance(threshold, Threshold) else float(threshold)
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError(f"prevalence is {prevalence}; give a share between 0 and 1.")
    numbers: dict[str, list[float]] = {name: [] for name in ("value", "low", "high", "n", "not_finite")}
    for k, (side, what) in enumerate(((positives, "positives"), (negatives, "negatives"))):
        scores = _scores(side, what, finite=False)
        broken = ~np.isfinite(scores)
        units = _units(np.where(broken, np.inf, scores), None if groups is None else groups[k], "group", 0)
        fired, n = int((units > theta).sum()), len(units)
        low, high = map(float, share_interval(fired, n, level))
        for name, number in zip(numbers, (fired / n, low, high, n, int(broken.sum()))):
            numbers[name].append(number)
    variables: dict[str, Any] = {name: (("class",), np.array(each)) for name, each in numbers.items()}
    if prevalence is not None:
        up, down = prevalence * numbers["value"][0], (1 - prevalence) * numbers["value"][1]
        variables["precision"] = ((), np.array(up / (up + down) if up + down else np.nan))
    attrs = results.provenance(
        method="operating point", unit="share",
        convention="value = share of units whose score is above the threshold",
        n_prompts=int(sum(numbers["n"])), threshold=theta, level=level,
    )  # fmt: skip
    return results.dataset(variables, {"class": np.array(["positive", "negative"], dtype=object)}, attrs)


def _scores(given: Any, what: str, finite: bool = True) -> np.ndarray:
    scores = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=float).ravel()
    if not len(scores):
        raise ValueError(f"{what} has no scores; give one or more.")
    if finite and not np.isfinite(scores).all():
        raise ValueError(f"{what} has {int((~np.isfinite(scores)).sum())} scores that are not finite.")
    return scores


def _units(scores: np.ndarray, groups: Sequence[Any] | None, per: str, seed: int) -> np.ndarray:
    """One score a group: its largest, or that of a random row."""
    if groups is None:
        return scores
    if len(groups) != len(scores):
        raise ValueError(f"groups has {len(groups)} labels for {len(scores)} scores; give one a score.")
    rows: dict[Any, list[float]] = {}
    for label, score in zip(groups, scores):
        rows.setdefault(label, []).append(float(score))
    if per == "group":
        return np.array([max(each) for each in rows.values()])
    drawn = np.random.default_rng(seed)
    return np.array([each[drawn.integers(len(each))] for each in rows.values()])
