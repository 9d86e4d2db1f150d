"""The trainer of the bundled dictionaries, on planted features."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from interp.sae import Dictionary
from training.dictionary import Plan, controls, trained

D, N, K = 24, 40, 3


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are K of N unit vectors each, with strengths of 40 to 80, about a mean far from 0."""
    g = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(N, D, generator=g), dim=1)
    on = torch.rand(6000, N, generator=g).topk(K, 1).indices
    f = torch.zeros(6000, N).scatter(1, on, 40 + 40 * torch.rand(6000, K, generator=g))
    return f @ vectors + 30 * torch.randn(D, generator=g), vectors


def left(d: Dictionary, x: torch.Tensor) -> float:
    return float((x - d(x)).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("over", ["token", "batch"])
def test_planted_features_are_found(over: str, planted: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Better than what costs nothing; rows of length 1, and a scale that is taken out again."""
    x, vectors = planted
    plan = Plan("L0.resid_post", K, 2 * N, 800, 256, 2e-3, over, over == "batch", 0, 1 / 4)
    d = trained(x[:5000], plan, 0)
    held = x[5000:]
    others = controls(x[:5000], K, 2 * N, plan.place)
    assert torch.allclose(d.W_dec.norm(dim=1), torch.ones(2 * N), atol=1e-5)
    assert all(left(d, held) < left(other, held) for other in others.values())
    cosine = lambda rows: float((vectors @ rows.T).amax(1).mean())  # noqa: E731
    assert cosine(d.W_dec) > cosine(others["random vectors"].W_dec) + 0.1
    on = float((d.encode(held) > 0).sum(1).float().mean())
    assert K / 2 < on <= K if over == "token" else K / 2 < on < 2 * K
    assert d.activation == ("topk" if over == "token" else "jumprelu")


def test_controls_are_what_they_say(planted: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, _ = planted
    made = controls(x, K, 2 * N, "L0.resid_post")
    centred = (x - x.mean(0)).double()
    spectrum = torch.linalg.svdvals(centred).square()
    assert left(made["PCA"], x) == pytest.approx(float(spectrum[K:].sum() / spectrum.sum()), abs=1e-3)
    for name, d in made.items():
        assert float((d.encode(x) > 0).sum(1).float().mean()) <= K + 1e-6, name
