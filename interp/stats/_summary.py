"""What can and what cannot be concluded from a result, in words; how many units an effect needs; how effects
that were chosen on some prompts fare on others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from scipy.special import ndtri, stdtrit

from interp._verbs import verb
from interp.stats._intervals import bootstrap
from interp.stats._means import MetricFacts, metric_facts
from interp.stats._significance import moments, test
from interp.stats._units import by_unit, on_prompts, units_of

SKEWED = 1.0  # |skewness| from which sign flips may be too sure
_MOST = 2_000_000  # units needed, beyond which nobody counts
_SECOND = 999  # draws of the second opinion
_POWER = 0.8
_VERIFIED = ("model", "site", "metric", "unit", "direction", "ablation")


@verb
def power(effect: float, sd: float, *, cells: int = 1, level: float = 0.95, power: float = 0.8) -> int:
    """How many independent units show an effect of this size, Bonferroni over so many cells, two-sided.

    effect, sd: the mean over units and the standard deviation between them, in one unit. cells: that are
    tested together. power: the chance to see it. Exact for normal effects (noncentral t). Raises ValueError
    for what cannot be, and for effects that would need millions.

    Example:
        >>> interp.stats.power(0.5, 1.0), interp.stats.power(0.5, 1.0, cells=144)
        (34, 85)
    """
    for name, value, good in (
        ("effect", effect, effect != 0),
        ("sd", sd, sd > 0),
        ("cells", cells, cells >= 1),
        ("level", level, 0 < level < 1),
        ("power", power, 0 < power < 1),
    ):
        if not (good and np.isfinite(value)):
            raise ValueError(f"{name} is {value}; it cannot be.")
    alpha, size = (1 - level) / cells, abs(effect) / sd
    z = ndtri(1 - alpha / 2)
    n = (z + ndtri(power)) ** 2 / size**2 + z**2 / 2
    if not n < _MOST:
        raise ValueError(
            f"an effect of {size:.2g} standard deviations needs {n:.2g} units: nobody will see it."
        )
    n = max(2, int(n) - 3)
    while _chance(n, size, alpha) < power:
        n += 1
    while n > 2 and _chance(n - 1, size, alpha) >= power:
        n -= 1
    return n


def _chance(n: int, size: float, alpha: float) -> float:
    """That |t| of n units passes, for an effect of `size` standard deviations."""
    from scipy.stats import nct

    bound, shift = -stdtrit(n - 1, alpha / 2), size * np.sqrt(n)
    below = nct.cdf(-bound, n - 1, shift)
    return float(nct.sf(bound, n - 1, shift) + (0.0 if np.isnan(below) else below))  # NaN where it is nothing


def detectable(n: int, sd: float, cells: int, level: float) -> float:
    """The effect that n units, two or more, show with a chance of 80 %."""
    alpha = (1 - level) / max(cells, 1)
    low, high = 0.0, 1.0
    while _chance(n, high, alpha) < _POWER:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(n, middle, alpha) < _POWER else (low, middle)
    return high * sd


@verb
def summary(
    result: xr.Dataset, *, cluster: str | None = "template", level: float = 0.95, seed: int = 0
) -> str:
    """What can and what cannot be concluded from a result, in words: one fact a line.

    How many independent units there are and why; the smallest p that they can give; for each metric how many
    cells survive each correction, which were not tested, what effect would have been found; whether effects
    are skewed, and then a second opinion; whether effects were chosen on the same prompts; half precision.
    No forward pass. Raises ValueError as `test` does.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.patch(model, interp.tasks.ioi(model, n=8), "z", progress=False)
        >>> print(interp.stats.summary(effects).splitlines()[0])
        8 prompts are 4 independent units (prompts that share a text count once).
    """
    found = test(result, cluster=cluster, level=level, seed=seed)
    units, alpha = units_of(result, cluster), 1 - level
    lines = [f"{result.sizes['prompt']} prompts are {units.n} independent units ({units})."]
    lowest = found.attrs["smallest_p"]
    least = int(np.ceil(1 - np.log2(alpha)))
    if lowest >= alpha:
        lines.append(
            f"With {units.n} units no p can be below {lowest:.3g}: nothing can be significant at "
            f"{alpha:.3g}, however large. {least} units are the least."
        )
    else:
        lines.append(f"The smallest p that {units.n} units can give is {lowest:.2g}.")
    for number, metric in enumerate(metric_facts(result)):
        one = found.isel(metric=number) if "metric" in found.dims else found
        effects = result.isel(metric=number) if "metric" in result.dims else result
        lines += _told(one, effects, metric, cluster, level, seed)
    return "\n".join([*lines, *_of_the_run(result)])


def _told(
    found: xr.Dataset, result: xr.Dataset, metric: MetricFacts, cluster: str | None, level: float, seed: int
) -> Iterator[str]:
    """What is to be said of one metric."""
    alpha, family = 1 - level, int(np.isfinite(found["t"]).sum())
    down = test(result, cluster=cluster, level=level, seed=seed, step_down=True)
    kept, more = int(found["significant"].sum()), int(down["significant"].sum())
    softer, alone = int((found["q"] < alpha).sum()), int((found["p_cell"] < alpha).sum())
    yield (
        f"{metric.name}: of {family} cells {kept} differ from 0 with every cell allowed for (max-|t|, "
        f"{100 * level:.3g} %{f'; step-down {more}' if more > kept else ''}), {softer} with "
        f"{100 * alpha:.3g} % of them expected to be false (BH), {alone} each taken alone."
    )
    yield from _untested(found, result)
    units = units_of(result, cluster)
    effects = result["value"].transpose("prompt", ...).values.reshape(result.sizes["prompt"], -1)
    spread = moments(by_unit(effects.astype(float), units))[2]
    live = np.isfinite(found["t"].values.ravel())
    if not live.any():
        return
    sd = float(np.median(spread[live]))
    size = detectable(units.n, sd, family, level)
    yield (
        f"An effect of {size:.2g} {metric.unit} would have been found in a typical cell with a chance of 80 %"
        + (
            f"; half of it needs {power(size / 2, sd, cells=family, level=level)} units."
            if size / sd > 1e-3
            else "."
        )
    )
    yield from _skewed(found, result, cluster, level, seed, kept)


def _untested(found: xr.Dataset, result: xr.Dataset) -> Iterator[str]:
    """Cells that are no hypothesis, and spans that some prompts do not have."""
    if found.attrs["no_ops"]:
        yield f"{found.attrs['no_ops']} cells are 0 on every prompt: no-ops, which are not tested."
    if found.attrs["constant"]:
        yield (
            f"{found.attrs['constant']} cells have the same value, not 0, on every unit: they have no t and "
            "are not tested."
        )
    if "present" in result.coords and "span" in result.dims:
        n = result.sizes["prompt"]
        rare = [(str(s), int(c)) for s, c in zip(result["span"].values, result["present"].values) if c < n]
        if rare:
            listed = ", ".join(f"{name} in {count}" for name, count in rare)
            yield f"Not each of the {n} prompts has every span: {listed}. Their cells rest on those alone."


def _skewed(
    found: xr.Dataset, result: xr.Dataset, cluster: str | None, level: float, seed: int, kept: int
) -> Iterator[str]:
    """Where sign flips may be too sure, and what the bootstrap-t says."""
    tested = np.isfinite(found["t"].values)
    share = float((np.abs(found["skewness"].values[tested]) > SKEWED).mean())
    if share <= 0.1:
        return
    other = test(result, method="bootstrap-t", cluster=cluster, level=level, seed=seed, n=_SECOND)
    yield (
        f"{100 * share:.0f} % of the cells are skewed (|skewness| above 1): sign flips, which assume "
        "symmetry, may be too sure there. By the bootstrap-t, which does not, "
        f"{int((other['significant'] & found['significant']).sum())} of the {kept} remain."
    )


def _of_the_run(result: xr.Dataset) -> Iterator[str]:
    """Whether effects were chosen on these prompts, and half precision."""
    part, chosen = str(result.attrs.get("part", "")), str(result.attrs.get("selected_on", ""))
    if chosen == "the same prompts":
        yield (
            "What is measured here was chosen on the same prompts: its effects are inflated. Measure it on "
            "prompts that did not choose it."
        )
    elif part == "discovery":
        yield (
            "These prompts are the discovery part: effects of cells that are chosen here are inflated. Take "
            "figures from the verification part (stats.verify)."
        )
    elif part == "verification":
        yield "These prompts are the verification part: honest for cells chosen on the discovery part."
    elif not chosen:
        yield (
            "Cells that are picked from this grid by their effects are picked and shown on the same prompts: "
            "the largest look larger than they are. task.split() gives prompts for each."
        )
    if result.attrs.get("dtype") in ("float16", "bfloat16"):
        yield f"The model ran in {result.attrs['dtype']}: small effects are rounding."


@verb
def verify(
    discovery: xr.Dataset,
    verification: xr.Dataset,
    *,
    top: int | None = 10,
    cluster: str | None = "template",
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The largest or the significant cells of one result, as they fare on prompts that did not choose them.

    discovery, verification: results over the same cells of two parts of a task (`task.split()`), with one
    metric. top: cells to choose, by the |mean| of the first; None: those that are significant there
    (max-|t| over its whole grid, step-down), however many.

    Returns a Dataset over `cell` (names of the cells' coordinates, largest first): `discovery`, the effect
    that chose it, inflated; `estimate`, `low`, `high` and `p` (max-|t| over the chosen cells alone),
    `significant`, from the second. In units of the metric. No forward pass. Raises ValueError for results
    over other cells, for prompts that are in both, for fewer than two units, and where nothing is
    significant.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> parts = interp.tasks.ioi(model, n=32, template=0).split()
        >>> results = [interp.patch(model, part, "z", progress=False) for part in parts]
        >>> found = interp.stats.verify(*results, top=3)
        >>> str(found["cell"].values[0]), bool(found["significant"][0])
        ('layer 0, head 0', True)
    """
    _require_parts(discovery, verification, top)
    dims = [str(dim) for dim in discovery["value"].dims if dim != "prompt"]
    chosen = discovery["value"].mean("prompt", skipna=True).stack(cell=dims, create_index=False)
    order = np.argsort(-np.nan_to_num(np.abs(chosen.values), nan=-1.0), kind="stable")
    kept = _significant(discovery, dims, cluster, level, seed)[order] if top is None else slice(top)
    order = order[kept]
    order = order[np.isfinite(chosen.values[order])]
    variables = [name for name in ("value", "clean", "corrupt", "empty") if name in verification]
    some = verification[variables].stack(cell=dims, create_index=False).isel(cell=order)
    interval = bootstrap(some, level=level, seed=seed, cluster=cluster)
    tested = test(some, level=level, seed=seed, cluster=cluster)
    names = [", ".join(f"{dim} {chosen[dim].values[at]}" for dim in dims) for at in order]
    columns = {"discovery": chosen.values[order], "estimate": interval["estimate"].values}
    columns |= {"low": interval["low"].values, "high": interval["high"].values, "p": tested["p"].values}
    columns |= {"significant": tested["significant"].values}
    attrs = {name: verification.attrs[name] for name in _VERIFIED if name in verification.attrs}
    attrs |= {"level": level, "seed": seed, "family": tested.attrs["family"], "units": tested.attrs["units"]}
    attrs |= {"method": "verify", "selected_on": "other prompts"}
    return xr.Dataset(
        {name: ("cell", column) for name, column in columns.items()}, {"cell": np.array(names, object)}, attrs
    )


def _significant(
    result: xr.Dataset, dims: list[str], cluster: str | None, level: float, seed: int
) -> np.ndarray:
    """The cells that a result finds, in the order of the stacked grid. ValueError where there are none."""
    tested = test(result, step_down=True, cluster=cluster, level=level, seed=seed)
    significant = tested["significant"].stack(cell=dims, create_index=False).values
    if not significant.any():
        raise ValueError(
            f"no cell of discovery is significant at level {level}: the smallest p of the "
            f"{tested.attrs['family']} cells is {float(tested['p'].min()):.3f}. Use more prompts, or choose "
            "by size: top=10."
        )
    return significant


def _require_parts(discovery: xr.Dataset, verification: xr.Dataset, top: int | None) -> None:
    """ValueError unless these are results over the same cells of prompts that have nothing in common."""
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; choose at least 1 cell.")
    for name, each in (("discovery", discovery), ("verification", verification)):
        if "value" not in each or "prompt" not in each["value"].dims or "metric" in each.dims:
            raise ValueError(f"{name} must be a result by prompt, with one metric (.sel(metric=...)).")
    one, other = (
        {d: each[d].values for d in each["value"].dims if d != "prompt"} for each in (discovery, verification)
    )
    if list(one) != list(other) or any(not np.array_equal(one[dim], other[dim]) for dim in one):
        raise ValueError(
            f"the results are over other cells: {', '.join(map(str, one))} and {', '.join(map(str, other))}. "
            "Measure both over the same grid."
        )
    texts = [set(map(str, each["text"].values)) for each in (discovery, verification) if _has_texts(each)]
    same = discovery.attrs.get("task_fingerprint", 0) == verification.attrs.get("task_fingerprint", 1)
    if same or (len(texts) == 2 and texts[0] & texts[1]):
        raise ValueError(
            "some prompts are in both results, so the second did not keep out of choosing. Use the two parts "
            "of task.split()."
        )


def _has_texts(result: xr.Dataset) -> bool:
    return "text" in result.coords and on_prompts(result, "text")
