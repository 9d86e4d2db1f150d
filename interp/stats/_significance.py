"""Is an effect real? Tests over prompts for a whole grid at once, and what can be concluded at all.

1. The unit is what was drawn independently: prompts that share a text (mirrored pairs) are one unit, named by
   the coordinate `unit` of a result. Effects are averaged by unit: y [unit, cell].
2. t = mean / (standard deviation / √units) by cell. Under the null "patched and unpatched can be exchanged"
   the sign of every unit may be flipped, in all cells together.
3. max-|t|: p of a cell is the share of flips whose largest |t| over the grid is at least its own, so that the
   chance of one false cell in the whole grid is at most the level. All 2^n flips where n ≤ 12, else 9,999.
4. Benjamini-Hochberg on the p of single cells is softer: the share of false cells among those kept.

Positive and negative effects are tested alike (two-sided). Cells that are exactly 0 on every prompt are no
hypothesis (they were not run) and are left out of the family. Westfall & Young 1993; Nichols & Holmes 2002;
Benjamini & Hochberg 1995.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import ndtri

from interp._verbs import verb
from interp.stats._means import blocks, fill, mean, metric_facts, on_prompts, require_result

_EXHAUSTIVE = 12  # units up to which every flip is counted
_SKEWED = 1.0
_FLIPS_AT_ONCE = 512


@verb
def test(
    result: xr.Dataset, *, cluster: str | None = "unit", level: float = 0.95, seed: int = 0, n: int = 9999
) -> xr.Dataset:
    """Sign-flip tests of every cell, corrected for the size of the grid.

    cluster: the coordinate on prompts that says which of them belong together; None takes each prompt for
        itself (wrong for mirrored pairs: the false-alarm rate is then many times the nominal one).
    level: cells with p below 1 - level are `significant`. n: flips, where there are too many to count all.

    Returns a Dataset over the cells: `estimate` (the mean over units, in the unit of the metric), `t`, `p`
    (family-wise, max-|t|), `p_cell` (each cell alone), `q` (Benjamini-Hochberg), `significant` (p below
    1 - level); NaN for exact no-ops. Attributes: units, family (cells tested), flips, smallest_p.
    Raises ValueError for fewer than two units.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.patch(model, interp.tasks.ioi(model, n=16), "z", progress=False)
        >>> found = interp.stats.test(effects)
        >>> found.attrs["units"], found.attrs["family"], bool(found["significant"].sel(layer=0, head=0))
        (8, 12, True)
    """
    require_result(result)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95.")
    group, n_units = units(result, cluster)
    if n_units < 2:
        raise ValueError(
            f"the result has {n_units} unit of prompts; a test needs at least two. Use more prompts."
        )
    base = mean(result)
    names = ("estimate", "t", "p", "p_cell", "q", "significant")
    out = xr.Dataset({name: base["value"].astype(float) * np.nan for name in names}, attrs=base.attrs)
    flips, family = _flips(n_units, n, seed), 0
    for where, effect, _ in blocks(result, "mean"):
        y = _by_unit(effect, group, n_units)
        columns = {"estimate": y.mean(0), "t": _t(y)}
        family = max(family, int(np.isfinite(columns["t"]).sum()))
        columns |= _corrected(y, columns["t"], flips)
        columns["significant"] = np.where(np.isnan(columns["p"]), np.nan, columns["p"] < 1 - level)
        for name in names:
            fill(out[name], where, columns[name])
    out["significant"] = out["significant"] == 1
    return out.assign_attrs(
        test="sign-flip, max-|t|", units=n_units, cluster=cluster or "prompt", family=family,
        flips=len(flips), smallest_p=_smallest(n_units, len(flips)), level=level, seed=seed,
    )  # fmt: skip


@verb
def power(effect: float, sd: float, *, cells: int = 1, level: float = 0.95, power: float = 0.8) -> int:
    """How many independent units show an effect of this size, Bonferroni over so many cells, two-sided.

    effect, sd: the mean over units and the standard deviation between them, in one unit. power: the chance
    to see it. The normal approximation with its small-sample term.

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
    z = ndtri(1 - (1 - level) / (2 * cells))
    return int(np.ceil((z + ndtri(power)) ** 2 * (sd / effect) ** 2 + z**2 / 2))


@verb
def summary(result: xr.Dataset, *, cluster: str | None = "unit", level: float = 0.95, seed: int = 0) -> str:
    """What can and what cannot be concluded from a result, in words: one fact a line.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.patch(model, interp.tasks.ioi(model, n=8), "z", progress=False)
        >>> print(interp.stats.summary(effects).splitlines()[0])
        8 prompts are 4 independent units (prompts that share a text count once).
    """
    found = test(result, cluster=cluster, level=level, seed=seed)
    facts, alpha = found.attrs, 1 - level
    n = facts["units"]
    shared = "prompts that share a text count once" if cluster == "unit" else f"by {cluster or 'prompt'}"
    lines = [f"{result.sizes['prompt']} prompts are {n} independent units ({shared})."]
    if facts["smallest_p"] >= alpha:
        lines.append(
            f"With {n} units no p can be below {facts['smallest_p']:.3g}: nothing can be significant at "
            f"{alpha:.3g}, however large. {int(np.ceil(1 - np.log2(alpha)))} units are the least."
        )
    for number, metric in enumerate(metric_facts(result)):
        one = found.isel(metric=number) if "metric" in found.dims else found
        effects = result.isel(metric=number) if "metric" in result.dims else result
        lines += _told(one, effects, metric.name, metric.unit, cluster, level)
    if result.attrs.get("dtype") in ("float16", "bfloat16"):
        lines.append(f"The model ran in {result.attrs['dtype']}: small effects are rounding.")
    return "\n".join(lines)


def _told(
    found: xr.Dataset, result: xr.Dataset, name: str, unit: str, cluster: str | None, level: float
) -> list[str]:
    alone, alpha = int((found["p_cell"] < 1 - level).sum()), 1 - level
    kept, softer = int(found["significant"].sum()), int((found["q"] < alpha).sum())
    family = int(np.isfinite(found["t"]).sum())
    lines = [
        f"{name}: of {family} cells {kept} differ from 0 with every cell allowed for (max-|t|, "
        f"{100 * level:.3g} %), {softer} with {100 * alpha:.3g} % of them expected to be false (BH), "
        f"{alone} each taken alone."
    ]
    group, n = units(result, cluster)
    y = _by_unit(
        result["value"].transpose("prompt", ...).values.reshape(result.sizes["prompt"], -1), group, n
    )
    spread = y.std(0, ddof=1)
    live = np.isfinite(spread) & (spread > 0)
    if not live.any():
        return lines
    needed = (ndtri(1 - alpha / (2 * max(family, 1))) + ndtri(0.8)) / np.sqrt(n) * np.median(spread[live])
    lines.append(
        f"An effect of {needed:.2g} {unit} would have been found in a typical cell with a chance of 80 %."
    )
    centred = y[:, live] - y[:, live].mean(0)
    skew = np.abs((centred**3).mean(0) / (centred**2).mean(0) ** 1.5)
    if (share := float((skew > _SKEWED).mean())) > 0.1:
        lines.append(
            f"{100 * share:.0f} % of the cells are skewed (|skewness| above 1): sign flips may be too sure "
            "there; look at the intervals of stats.bootstrap as well."
        )
    return lines


def units(result: xr.Dataset, cluster: str | None) -> tuple[np.ndarray, int]:
    """The unit of each prompt, counted from 0, and how many there are."""
    n_prompts = result.sizes["prompt"]
    known = [str(name) for name in result.coords if name != "prompt" and on_prompts(result, name)]
    if cluster is None or (cluster == "unit" and cluster not in known):
        return np.arange(n_prompts), n_prompts
    if cluster not in known:
        raise ValueError(f"cluster is {cluster!r}, but the coordinates on prompts are {known}.")
    group = np.unique(result[cluster].values.astype(str), return_inverse=True)[1].ravel()
    return group, int(group.max()) + 1


def _by_unit(effect: np.ndarray, group: np.ndarray, n_units: int) -> np.ndarray:
    """Means by unit: [unit, cell]; NaN where a cell is not defined on some prompt of the unit."""
    member = (group == np.arange(n_units)[:, None]).astype(float)  # [unit, prompt]
    return (member / member.sum(1, keepdims=True)) @ effect


def _t(y: np.ndarray) -> np.ndarray:
    """t of each cell (the last axis) over units: NaN for cells without spread."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = y.mean(-2) / (y.std(-2, ddof=1) / np.sqrt(y.shape[-2]))
    return np.where(np.isfinite(t), t, np.nan)


def _corrected(y: np.ndarray, t: np.ndarray, flips: np.ndarray) -> dict[str, np.ndarray]:
    """p over the family, p of each cell, and Benjamini-Hochberg's q."""
    live = np.flatnonzero(np.isfinite(t))
    out = {name: np.full(len(t), np.nan) for name in ("p", "p_cell", "q")}
    if not len(live):
        return out
    size, n = np.abs(t[live]) * (1 - 1e-9), len(y)  # rounding of equal sums
    squares = (y[:, live] ** 2).sum(0)  # flips leave it
    above, alone = np.zeros(len(live)), np.zeros(len(live))
    for start in range(0, len(flips), _FLIPS_AT_ONCE):
        means = flips[start : start + _FLIPS_AT_ONCE] @ y[:, live] / n  # [flip, cell]
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(np.maximum(squares - n * means**2, 0) / (n - 1) / n)
            flipped = np.abs(means) / spread
        flipped = np.where(np.isnan(flipped), 0.0, flipped)
        above += (flipped.max(1)[:, None] >= size).sum(0)
        alone += (flipped >= size).sum(0)
    out["p"][live], out["p_cell"][live] = above / len(flips), alone / len(flips)
    order = np.argsort(out["p_cell"][live])
    ranked = out["p_cell"][live][order] * len(live) / np.arange(1, len(live) + 1)
    q = np.minimum.accumulate(ranked[::-1])[::-1].clip(max=1)
    out["q"][live[order]] = q
    return out


def _smallest(n_units: int, n_flips: int) -> float:
    """The smallest p there is: a flip of all units gives the same |t|."""
    return (2 if n_units <= _EXHAUSTIVE else 1) / n_flips


def _flips(n_units: int, n: int, seed: int) -> np.ndarray:
    """Signs [flip, unit]; the first is the identity."""
    if n_units <= _EXHAUSTIVE:
        every = np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1
        return 1.0 - 2.0 * every
    drawn = np.random.default_rng(seed).integers(0, 2, (n, n_units))
    return np.concatenate((np.ones((1, n_units)), 1.0 - 2.0 * drawn))
