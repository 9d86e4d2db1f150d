"""The interval of a share, k of n: Clopper and Pearson 1934, which covers at `level` or more at every n.

Wald's and Wilson's intervals cover less than they say for some shares of few trials, and a rate of alarms or
of returns is often 0 of few.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def share_interval(k: Any, n: Any, level: float) -> tuple[np.ndarray | np.floating, np.ndarray | np.floating]:
    """Both ends, in the shape of k and n: each of (1 - level) / 2."""
    tail = (1 - level) / 2
    return 1 - share_at_most(np.subtract(n, k), n, 1 - tail), share_at_most(k, n, 1 - tail)


def share_at_most(k: Any, n: Any, confidence: float) -> np.ndarray:
    """The one-sided bound: with this confidence the share is not above it."""
    from scipy.stats import beta

    k, n = np.broadcast_arrays(k, n)
    some = np.where(k == n, 0, k)  # all of n bound nothing
    return np.where(k == n, 1.0, beta.ppf(confidence, some + 1, n - some))


def check_level(level: float) -> None:
    """ValueError, before any work, for what is no level of an interval."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
