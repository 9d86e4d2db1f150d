"""Gates: their distribution, and that their slopes estimate what they should."""

from __future__ import annotations

import pytest
import torch

from interp.circuits._search import gates

N = 40_000


def drawn(kind: str, theta: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return gates.sample(kind, theta, N, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", gates.KINDS)
def test_gates_are_between_0_and_1_and_open_as_often_as_they_say(kind: str) -> None:
    theta = torch.tensor([-3.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    found, share = drawn(kind, theta), gates.open_share(kind, theta)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    opened = found.mean(0) if kind == "uniform" else (found > 0).double().mean(0)
    torch.testing.assert_close(opened, share, atol=0.01, rtol=0)


def test_hard_concrete_gates_are_exactly_0_and_exactly_1() -> None:
    found = drawn("hard-concrete", torch.zeros(1, dtype=torch.float64))
    shut = 1 - float(gates.open_share("hard-concrete", torch.zeros(1, dtype=torch.float64)))
    assert float((found == 0).double().mean()) == pytest.approx(shut, abs=0.01)
    assert 0.15 < shut < 0.2
    assert float((found == 0).double().mean()) == pytest.approx(float((found == 1).double().mean()), abs=0.01)


def test_uniform_gates_give_the_slope_of_the_expected_loss() -> None:
    """Of a loss that is not linear in the share: (L(1) − L(0)) p (1 − p) is the slope of its mean in θ."""
    theta = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
    mask = drawn("uniform", theta)
    loss = mask[:, 0] ** 3 + 2 * torch.sin(mask[:, 1])
    found = torch.autograd.grad(loss.mean(), theta)[0]
    p = torch.sigmoid(theta.detach())
    wanted = p * (1 - p) * torch.tensor([1.0, 2 * torch.sin(torch.tensor(1.0)).item()])
    torch.testing.assert_close(found, wanted.to(found), atol=0.01, rtol=0)


def test_uniform_gates_are_uniform_as_often_as_their_variance() -> None:
    theta = torch.tensor([0.7], dtype=torch.float64)
    found, p = drawn("uniform", theta), float(torch.sigmoid(theta))
    between = ((found > 0) & (found < 1)).double().mean()
    assert float(between) == pytest.approx(p * (1 - p), abs=0.01)


@pytest.mark.parametrize("kind", gates.KINDS)
def test_the_seed_decides(kind: str) -> None:
    theta = torch.zeros(3, dtype=torch.float64)
    assert torch.equal(drawn(kind, theta, 1), drawn(kind, theta, 1))
    assert not torch.equal(drawn(kind, theta, 1), drawn(kind, theta, 2))
