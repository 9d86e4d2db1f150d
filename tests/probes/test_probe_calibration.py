"""Platt scaling finds the scale of scores drawn with it; the calibration error is its definition."""

from __future__ import annotations

import pytest
import torch

from interp.probes.calibration import calibrated_error, expected_calibration_error, platt


def overconfident(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of which a quarter, less 1, is the true logit."""
    g = torch.Generator().manual_seed(seed)
    score = 8 * torch.randn(n, generator=g, dtype=torch.float64)
    chance = torch.sigmoid(score / 4 - 1)
    return score, (torch.rand(n, generator=g, dtype=torch.float64) < chance).double()


def test_platt_finds_slope_and_intercept() -> None:
    slope, intercept = platt(*overconfident(4000))
    assert slope == pytest.approx(0.25, abs=0.02)
    assert intercept == pytest.approx(-1.0, abs=0.15)


def test_scaling_lowers_the_error_of_overconfident_scores() -> None:
    score, label = overconfident(600)
    raw = expected_calibration_error(torch.sigmoid(score), label)
    assert calibrated_error(score, label) < 0.07 < 0.15 < raw


def test_scores_that_point_the_wrong_way_get_the_share_of_positives() -> None:
    score, label = overconfident(500)
    slope, intercept = platt(-score, label)
    assert slope == 0.0
    assert torch.sigmoid(torch.tensor(intercept)).item() == pytest.approx(label.mean().item(), abs=0.01)


def test_the_error_by_hand() -> None:
    p = torch.tensor([0.1, 0.3, 0.9, 0.7, 1.0])
    label = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    # bins of width one half: two prompts (mean 0.2, share 0.5), three (mean 0.8667, share 0.6667)
    assert expected_calibration_error(p, label, bins=2) == pytest.approx((2 * 0.3 + 3 * 0.2) / 5)
    with pytest.raises(ValueError, match="bins is 0"):
        expected_calibration_error(p, label, bins=0)
