"""Is an effect real? Tests over independent units for a whole grid at once.

1. The unit is what was drawn independently (`interp.stats._units`): pairs that share a text are one,
   templates where there are enough. Effects are averaged by unit: y [unit, cell].
2. t = mean / (standard deviation / √units) by cell.
3. Sign flips: under the null "patched and unpatched can be exchanged" the sign of every unit may be flipped,
   in all cells together. All 2^n flips where n ≤ 12, else 9,999. With n units no p is below 2^(1-n).
4. max-|t|: p of a cell is the share of flips whose largest |t| over the grid is at least its own, so that the
   chance of one false cell in the whole grid is at most the level. Step-down: the cells already found leave
   the grid, which finds at least as many.
5. Benjamini-Hochberg on the p of single cells is softer: the share of false cells among those kept.

Sign flips need effects that are symmetric where there is none. Skewed effects with mean 0 are called real too
often; so `skewness` is given by cell, and method="bootstrap-t" is the second opinion: units are drawn with
replacement, and t* measures the draw's mean against the observed one.

Positive and negative effects are tested alike (two-sided). Cells that are 0 on every prompt are no hypothesis
(they were not run), and cells with the same value on every unit have no t: both are left out of the family.
Westfall & Young 1993; Nichols & Holmes 2002; Benjamini & Hochberg 1995.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp._verbs import verb
from interp.places import hint
from interp.stats._means import blocks, mean, require_result
from interp.stats._units import by_unit, ratio, units_of

METHODS = ("sign-flip", "bootstrap-t")
_EXHAUSTIVE = 12  # units up to which every flip is counted
_DRAWS_AT_ONCE = 512
_ROUNDING = 1e-9  # of |t|: equal sums in another order; and of a spread, of the largest effect
_COLUMNS = ("estimate", "t", "p", "p_cell", "q", "skewness", "units")


@verb
def test(
    result: xr.Dataset,
    *,
    method: str = "sign-flip",
    step_down: bool = False,
    cluster: str | None = "template",
    level: float = 0.95,
    seed: int = 0,
    n: int = 9999,
) -> xr.Dataset:
    """Tests of every cell against "no effect", corrected for the size of the grid.

    method: "sign-flip", or "bootstrap-t", which does not assume symmetric effects. step_down: find again
    among the cells that are not yet found. cluster: the units, as in `bootstrap`; None takes each prompt for
    itself (wrong for mirrored pairs: the false-alarm rate is then many times the nominal one). level: cells
    with p below 1 - level are `significant`. n: draws, where there are too many flips to count all.

    Returns a Dataset over the cells: `estimate` (the mean over units, in the unit of the metric), `t`, `p`
    (family-wise, max-|t|), `p_cell` (each cell alone), `q` (Benjamini-Hochberg), `significant` (p below
    1 - level), `skewness` of the units' effects, `units` that have the cell; NaN where not tested.
    Attributes: units, family (cells tested), no_ops and constant (cells that are not), flips, smallest_p.
    Select the cells first where they were chosen on other prompts: the family is then those.
    Raises ValueError for fewer than two units.

    Example:
        >>> model = interp.load("tiny-ioi")
        >>> effects = interp.patch(model, interp.tasks.ioi(model, n=16), "z", progress=False)
        >>> found = interp.stats.test(effects)
        >>> found.attrs["units"], found.attrs["family"], bool(found["significant"].sel(layer=0, head=0))
        (8, 12, True)
    """
    require_result(result)
    if method not in METHODS:
        raise ValueError(
            f"method is {method!r}; it must be one of {', '.join(METHODS)}{hint(method, METHODS)}"
        )
    if n < 99:
        raise ValueError(f"n is {n}; a p needs at least 99 draws (9999 is the default).")
    units = units_of(result, cluster)
    if units.n < 2:
        raise ValueError(
            f"the result has {units.n} unit of prompts; a test needs at least two. Use more prompts."
        )
    base = mean(result)["value"]
    out = {name: np.full(base.shape, np.nan) for name in _COLUMNS}
    family = no_ops = constant = draws = 0
    for where, effect, _ in blocks(result, "mean"):
        y = by_unit(effect, units)
        columns, size, draws = _tested(y, method, step_down, n, seed)
        nothing = _same(y, 0.0)
        family, no_ops = max(family, size), max(no_ops, int(nothing.sum()))
        constant = max(constant, int((_constant(y) & ~nothing).sum()))
        at = tuple(where.get(dim, slice(None)) for dim in base.dims)
        for name in _COLUMNS:
            out[name][at] = columns[name].reshape(out[name][at].shape)
    out["significant"] = out["p"] < 1 - level
    attrs = {**result.attrs, "n_prompts": result.sizes["prompt"]}
    cells = {name: (base.dims, column) for name, column in out.items()}
    return xr.Dataset(cells, base.coords, attrs).assign_attrs(
        test=f"{method}, max-|t|{', step-down' if step_down else ''}", units=units.n, cluster=units.kind,
        family=family, no_ops=no_ops, constant=constant, flips=draws,
        smallest_p=smallest_p(units.n, method, draws), level=level, seed=seed,
    )  # fmt: skip


def smallest_p(n_units: int, method: str, n_draws: int) -> float:
    """The smallest p there is: a flip of all units gives the same |t|."""
    if method == "sign-flip" and n_units <= _EXHAUSTIVE:
        return 2 / n_draws
    return max(1 / n_draws, 2.0 ** (1 - n_units) if method == "sign-flip" else 0.0)


def moments(y: Float[np.ndarray, "unit cell"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units that have the cell, mean and standard deviation; NaN where fewer than two have it."""
    has = ~np.isnan(y)
    count = has.sum(0)
    centre = ratio(np.where(has, y, 0.0).sum(0), count)
    squares = (np.where(has, y - centre, 0.0) ** 2).sum(0)
    return count, centre, np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)


def skewness(y: Float[np.ndarray, "unit cell"]) -> Float[np.ndarray, "cell"]:
    """Third moment over the second to the power 3/2."""
    has = ~np.isnan(y)
    count, centre, _ = moments(y)
    gap = np.where(has, y - centre, 0.0)
    return ratio((gap**3).sum(0) / np.maximum(count, 1), ((gap**2).sum(0) / np.maximum(count, 1)) ** 1.5)


def _same(y: np.ndarray, value: float) -> np.ndarray:
    """Cells with this value on every unit that has them."""
    has = ~np.isnan(y)
    return has.any(0) & ((y == value) | ~has).all(0)


def _constant(y: np.ndarray) -> np.ndarray:
    """Cells with one value on every unit, but for rounding; two units or more."""
    count, _, spread = moments(y)
    largest = np.abs(np.nan_to_num(y)).max(0)
    return (count > 1) & ~(spread > _ROUNDING * largest)


def _tested(
    y: np.ndarray, method: str, step_down: bool, n: int, seed: int
) -> tuple[dict[str, np.ndarray], int, int]:
    """The columns of every cell, the cells tested, and the draws."""
    count, centre, spread = moments(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(_constant(y), np.nan, centre / (spread / np.sqrt(count)))
    live = np.flatnonzero(np.isfinite(t))
    out = {name: np.full(len(t), np.nan) for name in ("p", "p_cell", "q")}
    n_draws = 2 ** len(y) if method == "sign-flip" and len(y) <= _EXHAUSTIVE else n + 1
    if len(live):
        draws = _flipped(y[:, live], n, seed) if method == "sign-flip" else _redrawn(y[:, live], n, seed)
        out["p"][live], out["p_cell"][live] = _shares(np.abs(t[live]), draws, step_down)
        out["q"][live] = benjamini_hochberg(out["p_cell"][live])
    columns = {"estimate": centre, "t": t, "skewness": skewness(y), "units": count.astype(float)}
    return columns | out, len(live), n_draws


def _shares(
    size: Float[np.ndarray, "cell"], draws: Iterator[np.ndarray], step_down: bool
) -> tuple[np.ndarray, np.ndarray]:
    """p over the family and p of each cell: the shares of draws [draw, cell] of |t| at least as large."""
    order = np.argsort(-size, kind="stable")
    least = size[order] * (1 - _ROUNDING)
    above, alone, n = np.zeros(len(size)), np.zeros(len(size)), 0
    for drawn in draws:
        drawn = drawn[:, order]
        alone += (drawn >= least).sum(0)
        if step_down:
            largest = np.maximum.accumulate(drawn[:, ::-1], axis=1)[:, ::-1]  # over the cells not yet found
        else:
            largest = drawn.max(1, keepdims=True)
        above += (largest >= least).sum(0)
        n += len(drawn)
    p, single = np.empty(len(size)), np.empty(len(size))
    p[order], single[order] = np.maximum.accumulate(above / n), alone / n
    return p, single


def _flipped(y: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """|t| of every cell under sign flips, the identity first: [draw, cell], some at a time."""
    count, _, _ = moments(y)
    y = np.nan_to_num(y)
    squares = (y**2).sum(0)  # flips leave it
    flips = _flips(len(y), n, seed)
    for start in range(0, len(flips), _DRAWS_AT_ONCE):
        means = flips[start : start + _DRAWS_AT_ONCE] @ y / count
        yield _size(means, squares, count)


def _redrawn(y: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """|t*| about the observed mean of units drawn with replacement, after the observed |t|."""
    count, centre, spread = moments(y)
    has = (~np.isnan(y)).astype(float)
    yield np.abs(centre / (spread / np.sqrt(count)))[None]
    gap = np.nan_to_num(y - centre)
    rng, n_units = np.random.default_rng(seed), len(y)
    for start in range(0, n, _DRAWS_AT_ONCE):
        rows = min(_DRAWS_AT_ONCE, n - start)
        drawn = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=rows).astype(float)
        there = drawn @ has
        yield _size(ratio(drawn @ gap, there), drawn @ gap**2, there)


def _size(means: np.ndarray, squares: np.ndarray, count: np.ndarray) -> np.ndarray:
    """|t| from means, sums of squares and counts; a draw without spread counts as the largest, 0 as none."""
    left = squares - count * means**2
    left = np.where(left > _ROUNDING * squares, left, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.abs(means) / np.sqrt(left / (count - 1) / count)
    return np.where(np.isnan(out), np.where(np.abs(np.nan_to_num(means)) > 0, np.inf, 0.0), out)


def benjamini_hochberg(p: Float[np.ndarray, "cell"]) -> Float[np.ndarray, "cell"]:
    """q: the smallest share of false cells at which a cell is kept."""
    order = np.argsort(p)
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(ranked[::-1])[::-1].clip(max=1)
    return q


def _flips(n_units: int, n: int, seed: int) -> Float[np.ndarray, "draw unit"]:
    """Signs; the first are the identity. All of them for few units."""
    if n_units <= _EXHAUSTIVE:
        every = np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1
        return 1.0 - 2.0 * every
    drawn = np.random.default_rng(seed).integers(0, 2, (n, n_units))
    return np.concatenate((np.ones((1, n_units)), 1.0 - 2.0 * drawn))
