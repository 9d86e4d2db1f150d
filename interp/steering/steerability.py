"""Reading a sweep: slopes by prompt, side effects, and the best setting under limits.

Steerability (Tan et al. 2024, 2407.12404): for each prompt, the least-squares slope of the metric against the
coefficient. A direction can work on the mean of the prompts and steer many of them the wrong way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr


def steerability(result: xr.Dataset, metric: str | None = None) -> xr.Dataset:
    """`slope` (layer, prompt) in units of the metric by coefficient, signed so that positive is better.

    Also `mean`, `sd` and `wrong` (share of prompts with a slope below 0) by layer, and the same with the
    suffix _random and _shuffled for the controls. Raises ValueError for fewer than two coefficients.
    """
    one = _metric(result, metric)
    if one.sizes["coefficient"] < 2:
        raise ValueError("a slope needs two coefficients or more. Sweep over several.")
    sign = _sign(result, metric)
    out = xr.Dataset(
        attrs={**result.attrs, "convention": "slope of the metric by coefficient; positive: better"}
    )
    for name, suffix in (("value", ""), ("random", "_random"), ("shuffled", "_shuffled")):
        if name in one:
            c = one["coefficient"] - one["coefficient"].mean()
            slope = sign * (c * one[name]).sum("coefficient") / (c**2).sum()
            out[f"slope{suffix}"] = slope.transpose("layer", "prompt")
            out[f"mean{suffix}"] = slope.mean("prompt")
            out[f"sd{suffix}"] = (
                slope.std("prompt", ddof=1) if slope.sizes["prompt"] > 1 else slope.std("prompt")
            )
            out[f"wrong{suffix}"] = (slope < 0).mean("prompt")
    return out


def summary(result: xr.Dataset) -> xr.Dataset:
    """Mean, SD and 95th percentile over prompts of every variable: (statistic, layer, coefficient, ...)."""
    names = [name for name in result.data_vars if "prompt" in result[name].dims and name != "base"]
    parts = {
        "mean": result[names].mean("prompt"),
        "sd": result[names].std("prompt"),
        "p95": result[names].quantile(0.95, "prompt").drop_vars("quantile"),
    }
    out = xr.concat(list(parts.values()), dim="statistic").assign_coords(statistic=list(parts))
    return out.assign_attrs(result.attrs)


def select(
    result: xr.Dataset,
    metric: str,
    *,
    kl_limit: float | int,
    last_layer: int | None = None,
    held_out: float = 0.5,
    seed: int = 0,
) -> dict[str, float | int]:
    """The layer and coefficient with the best mean effect whose mean KL is within the limit.

    Chosen on some of the prompts; `effect`, `kl`, and the controls' effects are those of the others
    (`held_out`, a share). The effect is metric − base, positive is better. last_layer: highest layer allowed.
    The sweep needs the metric "kl" beside the other. Raises ValueError where no setting is within the limit.
    """
    n = result.sizes["prompt"]
    rows = np.random.default_rng(seed).permutation(n)
    cut = max(1, min(n - 1, round(n * held_out)))
    test, train = np.sort(rows[:cut]), np.sort(rows[cut:])
    if not len(train):
        raise ValueError(
            f"select needs two prompts or more, to choose on some and report on others; got {n}."
        )
    effect = _sign(result, metric) * (_metric(result, metric)["value"] - _metric(result, metric)["base"])
    kl = _metric(result, "kl")["value"]
    allowed = kl.isel(prompt=train).mean("prompt") <= kl_limit
    if last_layer is not None:
        allowed = allowed & (result["layer"] <= last_layer)
    if not bool(allowed.any()):
        least = float(kl.isel(prompt=train).mean("prompt").min())
        raise ValueError(f"no setting has a mean KL of {kl_limit} or less; the least is {least:.3g}.")
    score = effect.isel(prompt=train).mean("prompt").where(allowed)
    best: dict[Any, Any] = {dim: int(index) for dim, index in score.argmax(("layer", "coefficient")).items()}
    found: dict[str, float | int] = {
        "layer": int(result["layer"][best["layer"]]),
        "coefficient": float(result["coefficient"][best["coefficient"]]),
        "effect": float(effect.isel({"prompt": test, **best}).mean()),
        "kl": float(kl.isel({"prompt": test, **best}).mean()),
    }
    one = _metric(result, metric)
    for name in ("random", "shuffled"):
        if name in one:
            difference = _sign(result, metric) * (one[name] - one["base"])
            found[f"effect_{name}"] = float(difference.isel({"prompt": test, **best}).mean())
    return found


def _metric(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    names = [name.strip() for name in result.attrs["metric"].split(",")]
    if metric is not None and metric not in names:
        raise ValueError(f"the sweep has no metric {metric!r}; it has {', '.join(names)}.")
    if "metric" not in result.dims:
        return result
    return result.sel(metric=metric or names[0])


def _sign(result: xr.Dataset, metric: str | None) -> float:
    names = [name.strip() for name in result.attrs["metric"].split(",")]
    better = [name.strip() for name in result.attrs["better"].split(",")]
    return 1.0 if better[names.index(metric or names[0])] == "higher" else -1.0
