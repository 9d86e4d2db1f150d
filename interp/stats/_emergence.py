"""How a number came to be in training: the curve of emergence, fitted to values over checkpoints.

1. f(t) = A e^(−λx) log x + K with x = γt + t₀: it rises from the start, passes a peak where x log x = 1/λ and
   falls back to K; with λ near 0 it grows as log t. Five numbers (massive activations over training).
2. A and K are linear: for any (λ, γ, t₀) least squares gives them (variable projection), so that only three
   numbers are searched, from many starts.
3. The interval of the peak resamples prompts, and fits again from the first fit.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr
from scipy.optimize import least_squares
from scipy.special import lambertw, ndtr

from interp._verbs import verb
from interp.stats._resample import expanded

_PARAMETERS = ("A", "lambda", "gamma", "t0", "K")
_LEAST = len(_PARAMETERS) + 1
_STARTS = tuple(product((0.03, 0.3, 3.0), (1.0, 10.0, 100.0), (0.1, 1.0)))  # λ, γ · last step, t₀
_BOUND = 14.0  # of the logarithms of what is searched
_DRAWS = 200


@verb
def fit_emergence(
    steps: np.ndarray | list[float],
    values: np.ndarray | list[float] | list[list[float]],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """When a number came up in training, when it was highest and where it went: a curve through checkpoints.

    steps: training steps (or tokens, or sizes of models), rising, at least 6. values: of each checkpoint,
    [step], such as the largest activation, an effect, a score of a head; or [prompt, step], whose mean over
    prompts is fitted and whose prompts give the interval.

    Returns a Dataset: `fitted` and `value` by step, `parameter` by name (A, lambda, gamma, t0, K of
    A e^(−λx) log x + K, x = γt + t₀); attrs `r2`, the share of the variance that the curve explains, `peak`,
    the step of its highest point (of its lowest, where A < 0), `peak_value`; with prompts `peak_low`,
    `peak_high`. `peak` is NaN where it is outside the steps, and `peak_reason` says so. No model is run.

    The five numbers alone mean little: several sets of them give nearly one curve. The curve and its peak do.
    Raises ValueError for fewer than six steps, steps that do not rise, values that do not vary.

    Example:
        >>> import numpy as np
        >>> steps = np.arange(0, 2000, 100.0)
        >>> x = 0.02 * steps + 1
        >>> fit = interp.stats.fit_emergence(steps, 8 * np.exp(-0.1 * x) * np.log(x) + 2)
        >>> round(fit.attrs["peak"]), fit.attrs["r2"] > 0.999
        (236, True)
    """
    t, rows = _checked(steps, values)
    mean = rows.mean(0)
    best = min((_search(t, mean, start) for start in _STARTS), key=lambda found: found[0])
    curve, parameters = _curve(t, mean, best[1])
    peak, reason = _peak(t, parameters)
    attrs = {
        "method": "emergence", "convention": "A e^(-lambda x) log x + K, x = gamma t + t0",
        "n_prompts": len(rows),
        "r2": 1 - float(((mean - curve) ** 2).sum() / ((mean - mean.mean()) ** 2).sum()),
        "peak": peak, "peak_reason": reason, "peak_value": _at(parameters, peak), "seed": seed,
    }  # fmt: skip
    if len(rows) > 1:
        low, high = _interval(t, rows, best[1], level, seed)
        attrs |= {"peak_low": low, "peak_high": high, "level": level}
    return xr.Dataset(
        {"fitted": ("step", curve), "value": ("step", mean), "parameter": ("name", np.array(parameters))},
        {"step": t, "name": list(_PARAMETERS)},
        attrs,
    )


def _checked(steps: object, values: object) -> tuple[np.ndarray, np.ndarray]:
    t, rows = np.asarray(steps, dtype=float), np.atleast_2d(np.asarray(values, dtype=float))
    if t.ndim != 1 or len(t) < _LEAST:
        raise ValueError(
            f"steps has shape {list(t.shape)}; a curve of five numbers needs at least {_LEAST} steps."
        )
    if rows.ndim != 2 or rows.shape[1] != len(t):
        raise ValueError(
            f"values has shape {list(rows.shape)} for {len(t)} steps; give [step] or [prompt, step]."
        )
    if not (np.isfinite(t).all() and np.isfinite(rows).all()):
        raise ValueError("a step or a value is not finite; leave that checkpoint out.")
    if (np.diff(t) <= 0).any() or t[0] < 0:
        i = int(np.argmax(np.diff(t) <= 0))
        raise ValueError(
            f"steps must rise from 0 or above; {t[i]:g} is followed by {t[i + 1]:g}, the first is {t[0]:g}."
        )
    if np.ptp(rows.mean(0)) == 0:
        raise ValueError(f"the value is {rows.mean():g} at every step: nothing emerges.")
    return t, rows


def _search(t: np.ndarray, y: np.ndarray, start: tuple[float, ...]) -> tuple[float, np.ndarray]:
    """The sum of squares that is reached from a start, and the logarithms of λ, γ · last step, t₀."""
    found = least_squares(
        lambda free: _curve(t, y, free)[0] - y, np.log(start), bounds=(-_BOUND, _BOUND), max_nfev=400,
        xtol=1e-9, ftol=1e-9, gtol=1e-9,
    )  # fmt: skip
    return float(found.cost), found.x


def _curve(t: np.ndarray, y: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """The best curve for λ, γ, t₀ (A and K by least squares), and its five numbers."""
    rate, speed, start = np.exp(free)
    x = speed * t / t[-1] + start
    shape = np.exp(-rate * x) * np.log(x)
    size = max(float(np.abs(shape).max()), 1e-100)  # it may vanish altogether
    (A, K), *_ = np.linalg.lstsq(np.stack((shape / size, np.ones_like(x)), 1), y, rcond=None)
    return A * shape / size + K, (A / size, rate, speed / t[-1], start, K)


def _peak(t: np.ndarray, parameters: tuple[float, ...]) -> tuple[float, str]:
    """The step where x log x = 1/λ; NaN outside the steps."""
    _, rate, speed, start, _ = parameters
    at = (float(np.exp(lambertw(1 / rate).real)) - start) / speed
    if t[0] <= at <= t[-1]:
        return at, ""
    side = "before the first" if at < t[0] else "after the last"
    return float("nan"), f"the curve turns {side} step, at {at:.3g}: it cannot be read off these"


def _at(parameters: tuple[float, ...], step: float) -> float:
    A, rate, speed, start, K = parameters
    x = speed * step + start
    return float(A * np.exp(-rate * x) * np.log(x) + K)


def _interval(
    t: np.ndarray, rows: np.ndarray, free: np.ndarray, level: float, seed: int
) -> tuple[float, float]:
    """Percentiles, with expanded tails, of the peak over draws of the prompts; NaN where many have none."""
    generator, peaks = np.random.default_rng(seed), []
    for _ in range(_DRAWS):
        mean = rows[generator.integers(len(rows), size=len(rows))].mean(0)
        again = _search(t, mean, tuple(np.exp(free)))[1]
        peaks.append(_peak(t, _curve(t, mean, again)[1])[0])
    if np.isnan(peaks).mean() > (1 - level):
        return float("nan"), float("nan")
    outer = ndtr(-expanded(level, len(rows)))
    low, high = np.nanquantile(peaks, [outer, 1 - outer])
    return float(low), float(high)
