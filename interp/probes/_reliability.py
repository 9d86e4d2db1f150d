"""`reliability`: how often what is predicted happens, beside what perfect probabilities would show.

1. Predictions are sorted and cut into bins of equal size. Equal predictions stay in one bin: else their order
   in the data, which may be by class, would decide what a bin holds.
2. In each bin: the mean prediction, the share of positives with its exact interval, and how many there are.
3. The same predictions, taken at their word: labels are drawn from them, many times, and give the band in
   which the shares of perfectly calibrated probabilities lie, and the error that they have by chance alone.

An expected calibration error is never 0 on finitely many prompts, so it says nothing without 3. Guo et al.
1706.04599 (curve and error), Vaicenavicius et al. 1902.06977 (what chance gives).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp import results
from interp._arguments import shown
from interp._verbs import verb
from interp.stats._shares import check_level, share_interval


@verb
def reliability(
    probabilities: Any, labels: Any, *, bins: int = 10, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> xr.Dataset:
    """Observed against predicted frequency, with counts, intervals, and what chance alone would do.

    probabilities: of the positive class, 0 to 1, of prompts that no fit saw. labels: 1 or 0 (or bools), one a
    prompt, each prompt a draw of its own. bins: of equal size; fewer where fewer probabilities differ. draws:
    of labels from the probabilities themselves.

    Returns a Dataset with dim bin: `predicted`, the mean probability; `value`, the share of positives, with
    its Clopper-Pearson interval `low`, `high`; `n`; `band_low`, `band_high`, where the share lies at `level`
    if the probabilities are right. `ece` = Σ n/N |value − predicted|, `ece_chance`, its mean if they are
    right, and `p_value`, how often chance alone is as far off. No forward pass. Raises ValueError for
    probabilities outside 0 to 1, labels that are not 0 or 1, other numbers of both.

    Example:
        >>> found = interp.probes.reliability([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bins=2)
        >>> found["value"].values.tolist(), found["n"].values.tolist()
        ([0.0, 1.0], [2, 2])
    """
    check_level(level)
    p, y = _numbers("probabilities", probabilities), _numbers("labels", labels)
    if not len(p) or len(p) != len(y):
        raise ValueError(f"there are {len(p)} probabilities and {len(y)} labels; give one label for each.")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"probabilities lie from {p.min():.3g} to {p.max():.3g}; give 0 to 1, no logits.")
    if not bool(np.isin(y, (0.0, 1.0)).all()):
        raise ValueError(f"labels has {sorted(set(y.tolist()))[:4]}; give 1 for positive and 0.")
    parts = _bins(p, bins)
    n = np.array([len(part) for part in parts])
    predicted, observed = (np.array([each[part].mean() for part in parts]) for each in (p, y))
    rng = np.random.default_rng(seed)
    drawn = np.array([_shares(rng.random(len(p)) < p, parts) for _ in range(draws)])
    errors = (abs(drawn - predicted) * n).sum(1) / len(p)
    ece = float((abs(observed - predicted) * n).sum() / len(p))
    low, high = share_interval(np.array([y[part].sum() for part in parts]), n, level)
    band = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], 0)
    by_bin = {"value": observed, "predicted": predicted, "n": n, "band_low": band[0], "band_high": band[1]}
    by_bin |= {"low": low, "high": high}
    variables: dict[str, Any] = {name: (("bin",), values) for name, values in by_bin.items()}
    variables["ece"] = ((), np.array(ece))
    variables["ece_chance"] = ((), np.array(errors.mean()))
    variables["p_value"] = ((), np.array((1 + (errors >= ece - 1e-12).sum()) / (1 + draws)))
    attrs = results.provenance(
        method="reliability", unit="share", convention="value = share of positives in a bin of predictions",
        n_prompts=len(p), seed=seed, level=level, draws=draws,
    )  # fmt: skip
    return results.dataset(variables, {"bin": np.arange(len(parts))}, attrs)


def _numbers(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=float).ravel()
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {shown(given)}; give one number a prompt.") from None


def _bins(p: np.ndarray, bins: int) -> list[np.ndarray]:
    """Rows of each bin, by size of the prediction: equal ones go where the middle of them would."""
    _, index, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = counts.cumsum() - (counts + 1) / 2  # ranks from 0
    edges = [part[-1] for part in np.array_split(np.arange(len(p)), min(bins, len(p)))]
    number = np.searchsorted(edges, middle)[index.ravel()]
    return [(number == each).nonzero()[0] for each in np.unique(number)]


def _shares(labels: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    return np.array([labels[part].mean() for part in parts])
