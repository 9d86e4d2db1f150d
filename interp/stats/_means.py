"""Means over prompts, and the normalised effect.

`value` is an effect by prompt and cell in the units of the metric, positive where the component helps. A cell
that is NaN for a prompt does not exist there and is left out of that prompt's sums.

Normalised effect: a ratio of means, sum over prompts of the effect / sum over prompts of (clean - corrupt),
with (corrupt - clean) for a metric where lower is better. Under denoising 0 is the corrupt run and 1 a fully
restored one; under noising 0 is the clean run and 1 a fully broken one. For circuits `empty` (every edge cut)
stands in the place of `corrupt`: 1 is the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp._verbs import verb, warn
from interp.stats._resample import ends
from interp.stats._units import Units, on_prompts, ratio, sums, units_of

RATIO = "ratio of means"
_WRITTEN = ("convention", "versions", "task_fingerprint")  # attributes that only a result has
_ALWAYS = ("method", "direction", "model", "task")  # and those that it never lacks
_FAR = ("corrupt", "empty")  # the baselines opposite to `clean`


class MetricFacts(NamedTuple):
    """One metric of a result."""

    name: str
    unit: str
    better: str  # "higher" or "lower"

    @property
    def sign(self) -> float:
        """+1 where a higher value is better, -1 where a lower one is."""
        return -1.0 if self.better == "lower" else 1.0


def metric_facts(result: xr.Dataset) -> list[MetricFacts]:
    """The metrics of a result in the order of its metric dim, or the one it has without such a dim.

    The attrs list every metric of the run; a selection such as `result.sel(metric="kl")` keeps them all, so
    the metric coordinate decides.
    """
    columns = [_listed(result.attrs.get(key, "")) for key in ("metric", "unit", "better")]
    columns = [column + [""] * (len(columns[0]) - len(column)) for column in columns]
    known = {name: MetricFacts(name, unit, better or "higher") for name, unit, better in zip(*columns)}
    if "metric" not in result.coords:
        return list(known.values())[:1]
    names = [str(name) for name in result["metric"].values.ravel()]
    return [known.get(name, MetricFacts(name, "", "higher")) for name in names]


def _listed(text: str) -> list[str]:
    return [word.strip() for word in str(text).split(",")]


def far_baseline(result: xr.Dataset) -> str | None:
    """The baseline opposite to `clean`: "corrupt" or "empty"; None where a result has none."""
    return next((name for name in _FAR if name in result), None)


def is_difference(result: xr.Dataset) -> bool:
    """Whether a Dataset is one result minus another.

    It says so; or it has lost an attribute that every result has (xarray drops those in which the two
    differ); or its baselines have gone to 0 together.
    """
    if result.attrs.get("method") == "difference":
        return True
    ours = any(name in result.attrs for name in _WRITTEN)
    if ours and any(name not in result.attrs for name in _ALWAYS):
        return True
    far = far_baseline(result)
    if far is None or "clean" not in result or result["clean"].size == 0:
        return False
    return not (result["clean"].values.any() or result[far].values.any())


@verb
def mean(result: xr.Dataset) -> xr.Dataset:
    """The mean over prompts of the effect and of the baselines, in the units of the metric.

    result: with a prompt dim. Returns a Dataset without it; the attribute `n_prompts` keeps their number.
    Raises ValueError for what is no result, or has lost its prompts.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> result = interp.patch(model, interp.tasks.ioi(model, n=4), "z", progress=False)
        >>> interp.stats.mean(result)["value"].dims
        ('layer', 'head')
    """
    require_result(result)
    texts = [name for name in result.data_vars if result[name].dtype.kind in "OSU"]
    out = result.drop_vars([*texts, *(name for name in result.coords if on_prompts(result, name))])
    out = out.mean("prompt", skipna=True, keep_attrs=True)
    out = out.assign_attrs(n_prompts=result.sizes["prompt"], normalisation="none")
    return out.assign_attrs(method="difference") if is_difference(result) else out


@verb
def normalise(result: xr.Dataset) -> xr.Dataset:
    """The normalised effect of every cell: 0 is unpatched, 1 the whole of clean - corrupt (or - empty).

    Warns, and gives NaN, for a metric whose mean clean - corrupt could be 0: its 95 % interval over prompts
    includes it. Raises ValueError for a result without these baselines, and for a difference of results:
    normalise each, then subtract.

    Example:
        >>> import interp
        >>> model = interp.load("tiny-ioi")
        >>> task = interp.tasks.ioi(model, n=4, template=1)
        >>> result = interp.patch(model, task, "resid_pre", progress=False)
        >>> float(interp.stats.normalise(result)["value"].max().round(2))
        1.0
    """
    require_result(result, "normalised")
    out = mean(result)[["value"]]
    out["value"] = out["value"].astype(float)
    for where, effect, full in blocks(result, "normalised"):
        numerator, denominator = sums(effect, full, Units(np.zeros(len(effect), dtype=int), 1, "all"))
        fill(out["value"], where, ratio(numerator, denominator))
    return out.assign_attrs(normalisation=RATIO)


def blocks(
    result: xr.Dataset, statistic: str, cluster: str | None = "template"
) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """By metric: where it lies, effects [prompt, cell], and what their sum is divided by [prompt].

    cluster: of the interval that tells whether the mean of clean - corrupt could be 0.
    """
    for number, facts in enumerate(metric_facts(result)):
        where = {"metric": number} if "metric" in result.dims else {}
        part = result.isel(where)
        value = part["value"].transpose("prompt", ...).values.astype(float)
        weight = np.ones(len(value)) if statistic == "mean" else _gap(part, facts, cluster)
        yield where, value.reshape(len(value), -1), weight


def _gap(part: xr.Dataset, facts: MetricFacts, cluster: str | None) -> np.ndarray:
    """clean - corrupt by prompt, positive where clean is better; NaN and a warning if its mean could be 0."""
    far = far_baseline(part)
    clean, other = (part[name].values.astype(float) for name in ("clean", far or "corrupt"))
    full = facts.sign * (clean - other)
    if not abs(full.sum()) > 1e-6 * max(float(np.abs(clean).sum()), float(np.abs(other).sum())):
        why = f"clean and {far} have the same mean ({clean.mean():.4g})"
    elif not (why := _maybe_nothing(full, units_of(part, cluster), f"clean - {far}")):
        return full
    warn(
        f"{facts.name}: {why}, so the normalised effect is not defined (NaN). Plot the effect itself, or "
        "choose prompts that differ."
    )
    return np.full_like(full, np.nan)


def _maybe_nothing(full: Float[np.ndarray, "prompt"], units: Units, name: str) -> str:
    """Why a mean cannot be divided by: its interval includes 0. Nothing where it does not, or has none."""
    if units.n < 2:
        return ""
    numerator, denominator = sums(full[:, None], np.ones(len(full)), units)
    interval = ends(numerator, denominator, 1000, 0.95, 0)
    low, high = float(interval.low[0]), float(interval.high[0])
    if not low <= 0 <= high:
        return ""
    ends_at = f"a 95 % interval of {low:.4g} to {high:.4g} ({units.n} units)"
    return f"the mean of {name} is {full.mean():.4g} with {ends_at}"


def fill(variable: xr.DataArray, where: dict, flat: np.ndarray) -> None:
    """Write the cells of one metric, given in one row, into a variable."""
    variable[where] = flat.reshape(variable[where].shape)


def require_result(result: xr.Dataset, statistic: str = "mean") -> None:
    """Raise ValueError unless this is a result with its prompts, and with baselines to normalise by."""
    needed = ("value",) if statistic == "mean" else ("value", "clean")
    missing = [name for name in needed if name not in result]
    missing += ["corrupt (or empty)"] if statistic != "mean" and far_baseline(result) is None else []
    if missing or "prompt" not in result["value"].dims:
        what = f"no variable {missing[0]!r}" if missing else "no 'prompt' dim"
        there = f"variables {list(map(str, result.data_vars))}, dims {dict(result.sizes)}"
        raise ValueError(
            f"the Dataset has {what} ({there}). "
            "Give the result of a method, for example interp.patch(...), before any mean is taken."
        )
    if statistic != "mean" and is_difference(result):
        raise ValueError(
            "a difference of two results has no clean - corrupt to be normalised by. Normalise each with "
            "stats.normalise, then subtract."
        )
