"""Which parts serve one ability and not another: two ablation sweeps compared (2510.03366).

1. Ablate every part (layer, head, neuron) on a task of recall, and again on a task of reasoning: two calls of
   `interp.patch(..., direction="noise", ablation="mean")` with the same sites and dims, and with
   `metrics=Accuracy()` for the paper's drop in accuracy.
2. Selectivity of a part: mean effect on the first task - mean effect on the second. Positive: the part serves
   the first. By its size alone a part that both need, or neither, has none.
3. The interval of the difference comes from the bootstrap intervals of the two means, which are independent
   (Zou and Donner 2008, MOVER): low = d - sqrt((a - low_a)^2 + (high_b - b)^2), high likewise. `sure` marks
   parts whose interval leaves out 0; of many parts, one in twenty is marked by chance at level 0.95.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp._verbs import verb
from interp.stats import bootstrap
from interp.tasks.metrics import Metric, Rank, Reading


@dataclass(frozen=True)
class Accuracy(Metric):
    """1 where the most likely token of the vocabulary is an answer, else 0."""

    name = "accuracy"
    unit = "share"
    differentiable = False

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        return (Rank()(reading) == 0).to(reading.logits.dtype)


@verb
def selectivity(
    first: xr.Dataset,
    second: xr.Dataset,
    *,
    statistic: str = "mean",
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """`value`, with `low`, `high` and `sure`, and the means `first` and `second`, of every part of both
    sweeps.

    first, second: results of `interp.patch` over the same parts with one metric. statistic: "mean" in units
    of the metric, or "normalised", shares of each task's clean - corrupt, for tasks whose metrics differ in
    size. No forward pass. Raises ValueError for sweeps over different parts or metrics, denoising sweeps,
    several metrics, fewer than two prompts.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp.steering import methods
        >>> noise = {"direction": "noise", "progress": False}
        >>> one, two = (interp.patch(model, part, "z", **noise) for part in (task[:4], task[4:]))
        >>> methods.selectivity(one, two)["value"].dims
        ('layer', 'head')
    """
    _check(first, second, statistic)
    one, two = (bootstrap(each, n, level, seed + i, statistic) for i, each in enumerate((first, second)))
    gap = one["estimate"] - two["estimate"]
    low = gap - np.hypot(one["estimate"] - one["low"], two["high"] - two["estimate"])
    high = gap + np.hypot(one["high"] - one["estimate"], two["estimate"] - two["low"])
    parts = {"value": gap, "low": low, "high": high, "sure": (low > 0) | (high < 0)}
    out = xr.Dataset({**parts, "first": one["estimate"], "second": two["estimate"]})
    tasks = [str(each.attrs.get("task", name)) for each, name in ((first, "first"), (second, "second"))]
    kept = {key: first.attrs[key] for key in ("model", "site", "metric", "unit") if key in first.attrs}
    facts = {"method": "selectivity", "first": tasks[0], "second": tasks[1], "statistic": statistic}
    said = "value = effect on the first task - effect on the second; positive: serves the first"
    return out.assign_attrs({**kept, **facts, "level": level, "seed": seed, "convention": said})


def _check(first: xr.Dataset, second: xr.Dataset, statistic: str) -> None:
    for name, each in (("first", first), ("second", second)):
        if "value" not in each or "prompt" not in each["value"].dims:
            raise ValueError(f"{name} is no result by prompt; give what interp.patch returns.")
        if "metric" in each["value"].dims:
            raise ValueError(f"{name} has several metrics; choose one with .sel(metric=...).")
        if each.attrs.get("direction", "noise") != "noise":
            raise ValueError(f"{name} is a {each.attrs['direction']} sweep; ablate with direction='noise'.")
    keys = ("site",) if statistic == "normalised" else ("site", "metric", "unit")
    for key in keys:
        pair = tuple(str(each.attrs.get(key, "")) for each in (first, second))
        if pair[0] != pair[1]:
            raise ValueError(f"the sweeps have {key} {pair[0]!r} and {pair[1]!r}; they must be the same.")
    shapes = [{d: s for d, s in each["value"].sizes.items() if d != "prompt"} for each in (first, second)]
    same = shapes[0] == shapes[1] and all(np.array_equal(first[d], second[d]) for d in shapes[0])
    if not same:
        raise ValueError(f"the sweeps are over different parts, {shapes[0]} and {shapes[1]}.")
