"""Muon: the update has singular values near 1 in the gradient's own directions; a known minimum is found."""

from __future__ import annotations

import pytest
import torch

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5), (3, 16, 6)])
def test_singular_values_move_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    out = orthogonal(matrix)
    moved = torch.einsum("...rk,...rc,...kc->...k", u, out, v)  # along the same singular directions
    keep = s / s.norm(dim=-1, keepdim=True) > 0.02  # five iterations do not reach smaller ones
    assert moved[keep].min() > 0.5
    assert moved[keep].max() < 1.3
    torch.testing.assert_close((u * moved[..., None, :]) @ v, out, atol=1e-9, rtol=0)
    assert s.max() / s.min() > 1.5


def test_a_step_is_as_long_as_promised_and_decays_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 16))
    weight.grad = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    step = (weight - (1 - 0.1 * 0.5)) / (0.1 * 0.2 * 16**0.5)
    singular = torch.linalg.svdvals(step.detach())
    assert 0.5 < singular.min() <= singular.max() < 1.3


def test_it_descends() -> None:
    generator = torch.Generator().manual_seed(0)
    goal = torch.randn(6, 10, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(6, 10))
    optimiser = Muon([weight], lr=0.05)
    losses = []
    for _ in range(200):
        loss = (weight - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
