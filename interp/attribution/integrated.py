"""Points of the straight path between two input embeddings, for integrated gradients.

The coefficient is the mean slope over runs whose embeddings are base + α (source - base), 0 <= α <= 1.

| rule     | α                    | error of the mean                                           |
|----------|----------------------|-------------------------------------------------------------|
| midpoint | (k + 1/2) / m        | O(1/m²)                                                     |
| gauss    | Gauss-Legendre nodes | falls faster than any power of m where the metric is smooth |
| left     | k / m, k from 0      | O(1/m): the sum in published code, which omits the far end  |

The straight path is that of the embeddings alone, so estimates add up to the metric's gap at the first cut of
the stream, as the number of points grows, and at later cuts only nearly.

For parity with EAP-IG (2403.17806): noise, rule="left". Sundararajan et al. 2017 (1703.01365).
"""

from __future__ import annotations

import numpy as np

BOTH_ENDS = [(0.0, 0.5), (1.0, 0.5)]  # the mean slope of the two runs


def points(steps: int, rule: str) -> list[tuple[float, float]]:
    """(α, weight) of every step; the weights sum to 1."""
    if rule == "gauss":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist()))
    shift = 0.5 if rule == "midpoint" else 0.0
    return [((k + shift) / steps, 1 / steps) for k in range(steps)]
