"""The picture of reliability: shares, their intervals, the band, the counts."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp import plot


def test_every_number_of_the_result_is_drawn() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=300)
    found = interp.probes.reliability(p, rng.random(300) < p**2, bins=6)
    band, diagonal, points, counts = plot.reliability(found).data
    np.testing.assert_allclose(points.x, found["predicted"])
    np.testing.assert_allclose(points.y, found["value"])
    np.testing.assert_allclose(points.y + points.error_y.array, found["high"])
    np.testing.assert_allclose(points.y - points.error_y.arrayminus, found["low"])
    np.testing.assert_allclose(band.y, [*found["band_high"], *found["band_low"][::-1]])
    np.testing.assert_allclose(counts.y, found["n"])
    assert list(diagonal.x) == list(diagonal.y) == [0, 1]
    assert f"{float(found['ece']):.3f}" in plot.reliability(found).layout.title.subtitle.text


def test_another_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not the result of probes\.reliability: it lacks predicted"):
        plot.reliability(interp.probes.thresholds.operating(0.5, [1.0], [0.0]))
