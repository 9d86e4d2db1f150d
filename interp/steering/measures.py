"""What a sweep says: slopes by prompt, side effects, the best setting under limits; and `calibrate`.

Steerability (Tan et al. 2024, 2407.12404): for each prompt, the least-squares slope of the metric against the
coefficient. A direction can work on the mean of the prompts and steer many of them the wrong way.

`calibrate` finds the coefficient at which steering changes the next-token distribution by a given KL;
coefficients mean nothing across layers, methods or models, and effects are compared at equal KL.

1. From a small length, double the coefficient until the mean KL passes the target.
2. Between the last two, try eight coefficients at once (one batch), keep the interval in which the KL passes
   the target, and repeat until it is within the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp._verbs import verb
from interp.models import Model
from interp.positions import AnyPositions, everywhere
from interp.steering._direction import Direction
from interp.steering._job import Job, by_layer
from interp.steering._runs import Entropy as Entropy
from interp.steering._runs import question_of
from interp.steering.edits import finite
from interp.tasks.metrics import KL

__all__ = ["Calibration", "Entropy", "band", "calibrate", "repetition", "select", "steerability", "summary"]


def __dir__() -> list[str]:
    return __all__


@verb
def steerability(result: xr.Dataset, metric: str | None = None) -> xr.Dataset:
    """`slope` (prompt, layer) in units of the metric by coefficient, signed so that positive is better.

    Also `mean`, `sd` and `wrong` (share of prompts with a slope below 0) by layer, and the same with the
    suffix _random and _shuffled for the controls. Raises ValueError for fewer than two coefficients.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> result = steering.sweep(model, d, task, [-1.0, 0.0, 1.0], progress=False)
        >>> steering.measures.steerability(result)["slope"].dims
        ('prompt', 'layer')
    """
    one = _metric(result, metric)
    if one.sizes["coefficient"] < 2:
        raise ValueError("a slope needs two coefficients or more. Sweep over several.")
    out = xr.Dataset(
        attrs={**result.attrs, "convention": "slope of the metric by coefficient; positive: better"}
    )
    for name, suffix in (("value", ""), ("random", "_random"), ("shuffled", "_shuffled")):
        if name in one:
            c = one["coefficient"] - one["coefficient"].mean()
            slope = (c * one[name]).sum("coefficient", skipna=False) / (c**2).sum()
            out[f"slope{suffix}"] = slope.transpose("prompt", "layer")
            out[f"mean{suffix}"] = slope.mean("prompt")
            out[f"sd{suffix}"] = slope.std("prompt", ddof=int(slope.sizes["prompt"] > 1))
            out[f"wrong{suffix}"] = (slope < 0).mean("prompt")
    return out


@verb
def summary(result: xr.Dataset) -> xr.Dataset:
    """Mean, SD and 95th percentile over prompts of every variable: (statistic, layer, coefficient, ...).

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> result = steering.sweep(model, d, task, [-1.0, 0.0, 1.0], progress=False)
        >>> steering.measures.summary(result)["statistic"].values.tolist()
        ['mean', 'sd', 'p95']
    """
    _require_sweep(result)
    names = [name for name in result.data_vars if "prompt" in result[name].dims and name != "clean"]
    parts = {
        "mean": result[names].mean("prompt"),
        "sd": result[names].std("prompt"),
        "p95": result[names].quantile(0.95, "prompt").drop_vars("quantile"),
    }
    out = xr.concat(list(parts.values()), dim="statistic").assign_coords(statistic=list(parts))
    return out.assign_attrs(result.attrs)


@verb
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
    (`held_out`, a share). The effect is that of the sweep, positive is better. last_layer: highest layer
    allowed. The sweep needs the metric "kl" beside the other. Raises ValueError where no setting is within
    the limit.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> result = steering.sweep(model, d, task, [-1.0, 0.0, 1.0], progress=False)
        >>> best = steering.measures.select(result, "logit_diff", kl_limit=10.0)
        >>> best["layer"]
        1
    """
    _require_sweep(result)
    n = result.sizes["prompt"]
    rows = np.random.default_rng(seed).permutation(n)
    cut = max(1, min(n - 1, round(n * held_out)))
    test, train = np.sort(rows[:cut]), np.sort(rows[cut:])
    if not len(train):
        raise ValueError(
            f"select needs two prompts or more, to choose on some and report on others; got {n}."
        )
    effect = _metric(result, metric)["value"]
    kl = _metric(result, "kl")["raw"]
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
            found[f"effect_{name}"] = float(one[name].isel({"prompt": test, **best}).mean())
    return found


@verb
def band(
    result: xr.Dataset,
    metric: str,
    limits: Mapping[str, float],
    *,
    least: float = 0.0,
    level: float = 0.95,
    n_draws: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    """The coefficients in which the effect holds and the text stays whole, for each layer: what to use.

    A coefficient is in the band where the mean effect is above `least`, and above each control, and the mean
    of every name in `limits` (a metric of the sweep by its raw value, or another variable of it, such as a
    judge's) is at or below its limit: each with probability `level` over bootstrap draws of the prompts. The
    band is the run of neighbouring coefficients of one sign that are in it which is longest; of several, the
    one nearest to 0. A control that does not exist (NaN) is left out. Choose its middle, not the largest
    effect.

    `first`, `last` (layer): its ends, NaN where no coefficient is in it. `first_low`, `first_high`,
    `last_low`, `last_high`: their intervals over the draws. `share` (layer, coefficient): of draws in which
    it holds. Coordinate `verdict` (layer): a sentence. Raises ValueError for a limit on what the sweep lacks.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> from interp import steering
        >>> d = steering.mean_difference(model, task.clean[:4], task.clean[4:], layer=1)
        >>> result = steering.sweep(model, d, task, [-1.0, 0.0, 1.0], progress=False)
        >>> steering.measures.band(result, "logit_diff", {"kl": 1.0})["share"].dims
        ('layer', 'coefficient')
    """
    one, n = _metric(result, metric), result.sizes["prompt"]
    if not limits or not 0 < level < 1 or n < 2:
        raise ValueError(
            f"limits is {dict(limits)}, level {level}, with {n} prompts; give a limit or more, a level from "
            "0 and 1, and two prompts or more."
        )
    ceilings = [_limited(result, name) - limit for name, limit in limits.items()]
    floors = [one["value"] - least]
    controls = [one[name] for name in ("random", "shuffled") if name in one]
    floors += [(one["value"] - each).where(each.notnull(), 1.0) for each in controls]  # NaN: there is none
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, np.full(n, 1 / n), size=n_draws) / n  # [draw, prompt]

    def means(array: xr.DataArray) -> np.ndarray:
        values = array.transpose("prompt", "layer", "coefficient").values
        return np.einsum("bp,plc->blc", draws, values)

    holds = np.all([means(each) > 0 for each in floors] + [means(each) <= 0 for each in ceilings], axis=0)
    share = holds.mean(0)  # [layer, coefficient]
    order = result["coefficient"].values.argsort()
    steps = result["coefficient"].values[order]
    ends = np.array([_longest(row[order] >= level, steps) for row in share])
    drawn = np.array([[_longest(row[order], steps) for row in draw] for draw in holds])  # [draw, layer, end]
    tails = [(1 - level) / 2, (1 + level) / 2]
    out = xr.Dataset(
        {"share": (("layer", "coefficient"), share)}, coords=result[["layer", "coefficient"]].coords
    )
    for i, name in enumerate(("first", "last")):
        out[name] = ("layer", ends[:, i])
        spread = np.array([_quantiles(drawn[:, layer, i], tails) for layer in range(len(ends))])
        out[f"{name}_low"], out[f"{name}_high"] = ("layer", spread[:, 0]), ("layer", spread[:, 1])
    told = [_verdict(*each, metric, limits) for each in zip(ends, share.max(1))]
    out = out.assign_coords(verdict=("layer", np.array(told, dtype=object)))
    more = {"method": "band", "metric": metric, "level": level, "seed": seed, "convention": "coefficients"}
    return out.assign_attrs({**result.attrs, **more})


def _limited(result: xr.Dataset, name: str) -> xr.DataArray:
    """A raw metric of a sweep, or one of its variables by prompt, layer and coefficient."""
    metrics = [each.strip() for each in result.attrs["metric"].split(",")]
    if name in metrics:
        return _metric(result, name)["raw"]
    if name in result and {"prompt", "layer", "coefficient"} == set(result[name].dims):
        return result[name]
    raise ValueError(
        f"limits has {name!r}; the sweep has the metrics {', '.join(metrics)} and judges' variables."
    )


def _longest(inside: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """Ends of the longest run of neighbours of one sign that are inside; of several the nearest to 0."""
    runs: list[tuple[int, int]] = []
    for i in np.flatnonzero(inside & (steps != 0)):
        joined = bool(runs) and runs[-1][1] == i - 1 and steps[i - 1] * steps[i] > 0
        runs = [*runs[:-1], (runs[-1][0], int(i))] if joined else [*runs, (int(i), int(i))]
    if not runs:
        return float("nan"), float("nan")
    best = max(runs, key=lambda run: (run[1] - run[0], -np.abs(steps[run[0] : run[1] + 1]).min()))
    return float(steps[best[0]]), float(steps[best[1]])


def _quantiles(values: np.ndarray, tails: Sequence[float]) -> tuple[float, float]:
    """Interval over the draws that have a band; NaN where fewer than half have one."""
    real = values[np.isfinite(values)]
    if 2 * len(real) < len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(real, tails)
    return float(low), float(high)


def _verdict(ends: np.ndarray, most: float, metric: str, limits: Mapping[str, float]) -> str:
    told = " and ".join(f"{name} at most {limit:g}" for name, limit in limits.items())
    if np.isnan(ends[0]):
        return f"no coefficient is sure: {metric} with {told} holds in {most:.0%} of draws at best"
    return f"use {ends[0]:g} to {ends[1]:g}: {metric} is raised, above the controls, with {told}"


def _require_sweep(result: xr.Dataset) -> None:
    """Raise ValueError for a Dataset that is not one of `steering.sweep`."""
    if "coefficient" not in result.dims or "prompt" not in result.dims or "metric" not in result.attrs:
        raise ValueError(
            f"result has dims {list(map(str, result.dims))}, and is no sweep. Give one of steering.sweep, "
            "before any mean is taken."
        )


def _metric(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    _require_sweep(result)
    names = [name.strip() for name in result.attrs["metric"].split(",")]
    if metric is not None and metric not in names:
        raise ValueError(f"the sweep has no metric {metric!r}; it has {', '.join(names)}.")
    if "metric" not in result.dims:
        return result
    return result.sel(metric=metric or names[0])


_DOUBLINGS, _ROUNDS, _AT_ONCE = 40, 12, 8


@dataclass(frozen=True)
class Calibration:
    """The coefficient, and the mean KL that it gives on the prompts, in nats."""

    coefficient: float
    kl: float


@verb
def calibrate(
    model: Model,
    direction: Direction,
    prompts: Any,
    target_kl: float | int,
    *,
    sign: int = 1,
    when: AnyPositions = everywhere,
    mask: Tensor | None = None,
    tolerance: float = 0.002,
    engine: str = "auto",
) -> Calibration:
    """The smallest coefficient found whose mean KL(unsteered ‖ steered) is `target_kl` nats.

    KL is that of the next token after each prompt (at the answer position of a Task). sign: 1 or -1, which
    way to steer. tolerance: relative. The direction has one place. engine: as in `sweep`. Cost: about 40
    steered passes of each prompt from the steered layer on. Raises ValueError for a target that no
    coefficient reaches.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=8, seed=0)
        >>> up, down = task.clean[:4], task.clean[4:]
        >>> from interp import steering
        >>> d = steering.mean_difference(model, up, down, layer=1)
        >>> round(steering.calibrate(model, d, task, 0.1).kl, 2)
        0.1
    """
    finite("target_kl", target_kl)
    finite("tolerance", tolerance)
    if not target_kl > 0:
        raise ValueError(f"target_kl is {target_kl}; it must be finite and above 0 (coefficient 0 gives 0).")
    if sign not in (1, -1):
        raise ValueError(f"sign is {sign}; use 1 or -1.")
    parts = by_layer(model, direction, [0.0])
    if len(parts) != 1:
        raise ValueError(
            f"calibrate takes a direction with one place, this has {len(parts)}. Use direction.split()."
        )
    length = parts[0].vector.double().norm().item()
    question = question_of(model, prompts, mask, None, None, KL())
    first = Job(model, parts, [0.0], None, when)
    first.check(question.rows)
    run = first.runner(question, engine, _DOUBLINGS)

    def kl(steps: list[float]) -> Tensor:
        job = Job(model, parts, [sign * step for step in steps], None, when)
        return torch.from_numpy(job.measure(run, question.reads, parts, lambda n: None))[0, :, :, 0].mean(1)

    low, high = _bracket(kl, float(target_kl), 1e-2 / length)
    for _ in range(_ROUNDS):
        steps = torch.linspace(low, high, _AT_ONCE, dtype=torch.float64).tolist()
        found = kl(steps)
        near = int((found - target_kl).abs().argmin())
        if abs(float(found[near]) - target_kl) <= tolerance * target_kl:
            return Calibration(sign * steps[near], float(found[near]))
        over = int((found >= target_kl).int().argmax())
        low, high = steps[max(over - 1, 0)], steps[over]
    raise ValueError(
        f"the KL jumps over {target_kl} near coefficient {sign * high:.4g}. Choose another target."
    )


def _bracket(kl: Any, target: float, first: float) -> tuple[float, float]:
    """Two coefficients between which the KL passes the target."""
    low, high, most = 0.0, first, 0.0
    for _ in range(0, _DOUBLINGS, _AT_ONCE):
        steps = [high * 2**i for i in range(_AT_ONCE)]
        found = kl(steps).tolist()
        for step, value in zip(steps, found):
            if value >= target:
                return low, step
            low, most = step, max(most, value)
        high = steps[-1] * 2
    raise ValueError(
        f"no coefficient up to {low:.3g} reaches a KL of {target}; the largest KL was {most:.3g}."
    )


@verb
def repetition(tokens: Int[Tensor, "prompt pos"], n: int = 2) -> Float[Tensor, "prompt"]:
    """Share of the n-grams of each row that have come before in it: 0 all new, towards 1 a loop.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1, 2, 1, 2, 1], [1, 2, 3, 4, 5]])
        >>> interp.steering.measures.repetition(rows).tolist()
        [0.5, 0.0]
    """
    if n < 1:
        raise ValueError(f"n is {n}; n-grams have 1 token or more.")
    if tokens.shape[1] <= n:
        raise ValueError(f"repetition of {n}-grams needs more than {n} tokens, got {tokens.shape[1]}.")
    grams = tokens.unfold(1, n, 1)  # [prompt, gram, n]
    new = torch.tensor([len(set(map(tuple, row))) for row in grams.tolist()], dtype=torch.float64)
    return 1 - new / grams.shape[1]
