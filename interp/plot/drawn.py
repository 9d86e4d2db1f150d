"""From a result to what a figure draws: one value a cell, its interval, its unit and the words about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from interp import stats
from interp.places import nearest
from interp.stats.metric_facts import MetricFacts, metric_facts

MEANING = {"denoise": "clean patched into corrupt", "noise": "corrupt patched into clean"}
SHARE = "share of clean − corrupt"


@dataclass(frozen=True)
class Drawn:
    """The cells of one figure, for one metric, without a prompt dim."""

    value: xr.DataArray  # float32
    low: xr.DataArray | None
    high: xr.DataArray | None
    unit: str
    subtitle: str
    attrs: dict

    def isel(self, **where: int) -> Drawn:
        """The cells at an index of a dim."""
        parts = {name: getattr(self, name) for name in ("value", "low", "high")}
        return replace(self, **{name: p if p is None else p.isel(where) for name, p in parts.items()})


def drawn(
    result: xr.Dataset,
    normalise: bool = False,
    interval: float | xr.Dataset | None = None,
    metric: str | None = None,
) -> Drawn:
    """Prompt means (or normalised effects) of one metric, with intervals if they are asked for or present.

    `result` is a result, or what `stats.mean`, `stats.normalise` or `stats.bootstrap` made of one.
    `interval` is a level such as 0.95, or a Dataset of `stats.bootstrap`.
    """
    one, facts = _one_metric(result, metric)
    if isinstance(interval, xr.Dataset):
        one = _one_metric(interval, metric)[0]
        _require_scale(one, normalise)
    elif interval is not None and "prompt" in one.dims:
        statistic = "normalised" if normalise else "mean"
        one = stats.bootstrap(one, level=interval, statistic=statistic)
    n_prompts = result.sizes.get("prompt", result.attrs.get("n_prompts"))
    if "estimate" not in one and "prompt" in one.dims:
        one = stats.normalise(one) if normalise else stats.mean(one)
    _require_scale(one, normalise)
    low, high = (one[name].astype(np.float32) if name in one else None for name in ("low", "high"))
    value = one["estimate" if "estimate" in one else "value"].astype(np.float32)
    normalised = one.attrs.get("normalisation", "none") != "none"
    unit = SHARE if normalised else facts.unit or facts.name
    words = _subtitle(result.attrs, facts, n_prompts, normalised, one.attrs if low is not None else {})
    return Drawn(value, low, high, unit, words, dict(result.attrs))


def _one_metric(result: xr.Dataset, metric: str | None) -> tuple[xr.Dataset, MetricFacts]:
    if "value" not in result and "estimate" not in result:
        raise ValueError(f"the Dataset has no variable 'value'; it has {list(map(str, result.data_vars))}.")
    known = [facts.name for facts in metric_facts(result)]
    if metric is not None and metric not in known:
        close = nearest(metric, known)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(f"metric is {metric!r}, but the result has {', '.join(known)}.{hint}")
    if "metric" not in result.dims:
        return result, metric_facts(result)[0]
    if metric is None and result.sizes["metric"] > 1:
        raise ValueError(f"the result has {len(known)} metrics: {', '.join(known)}. Choose one with metric=.")
    one = result.sel(metric=metric or known[0])
    return one, metric_facts(one)[0]


def _require_scale(one: xr.Dataset, normalise: bool) -> None:
    """Refuse to normalise what has lost its prompts."""
    if normalise and "prompt" not in one.dims and one.attrs.get("normalisation", "none") == "none":
        raise ValueError(
            "normalise=True needs the prompts, but this Dataset holds means in units of the metric. Give the "
            "result itself, or intervals made with stats.bootstrap(result, statistic='normalised')."
        )


def _subtitle(
    attrs: dict, facts: MetricFacts, n_prompts: int | None, normalised: bool, interval: dict
) -> str:
    direction = str(attrs.get("direction", ""))
    means = MEANING.get(direction)
    parts = [f"{direction}: {means}" if means else direction]
    parts.append("" if n_prompts is None else f"{n_prompts} prompt{'s' if n_prompts != 1 else ''}")
    unit = f" ({facts.unit})" if facts.unit and facts.unit != facts.name else ""
    scale = "normalised: 0 unpatched, 1 the whole of clean − corrupt" if normalised else "not normalised"
    parts += [f"{facts.name}{unit}", scale]
    if interval:
        unit = interval.get("resampled", "prompt")
        plural = "groups of prompts" if unit == "template" else f"{unit}s"  # templates, or pairs within one
        units = f"{interval.get('n_resampled', '')} {plural}".strip()
        parts.append(f"{100 * float(interval.get('level', 0.95)):.4g} % intervals over {units}")
    return " · ".join(part for part in parts if part)
