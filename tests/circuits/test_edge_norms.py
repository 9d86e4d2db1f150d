"""Norms taken back in closed form: against autograd through the norm itself, or its two-point change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.attribution.secant._slopes import norm_change
from interp.circuits._score.readers import pull_back
from interp.models.parts import Norm


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(centred: bool, gain: bool) -> Norm:
    return Norm(
        centred, 1e-5, 1 + numbers(6, seed=3) if gain else None, numbers(6, seed=4) if centred else None
    )


X, OTHER, SLOPE = numbers(2, 3, 6, seed=0), numbers(2, 3, 6, seed=1), numbers(4, 2, 3, 6, seed=2)
NORMS = [norm(centred, gain) for centred in (True, False) for gain in (True, False)]


@pytest.mark.parametrize("one", NORMS, ids=["LN", "LNPre", "RMS", "RMSPre"])
def test_the_gradient_is_autograds(one: Norm) -> None:
    x = X.clone().requires_grad_()
    out = one(x)
    wanted = [torch.autograd.grad(out, x, slope, retain_graph=True)[0] for slope in SLOPE]
    torch.testing.assert_close(pull_back(one, X, SLOPE), torch.stack(wanted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("one", NORMS, ids=["LN", "LNPre", "RMS", "RMSPre"])
def test_the_frozen_slope_holds_the_scale(one: Norm) -> None:
    x = X.clone().requires_grad_()
    centred = x - x.mean(-1, keepdim=True) if one.centred else x
    out = centred / (centred.pow(2).mean(-1, keepdim=True) + one.eps).sqrt().detach()
    out = out if one.gain is None else out * one.gain
    wanted = [torch.autograd.grad(out, x, slope, retain_graph=True)[0] for slope in SLOPE]
    torch.testing.assert_close(pull_back(one, X, SLOPE, "frozen"), torch.stack(wanted), atol=1e-12, rtol=0)


@pytest.mark.parametrize("one", NORMS, ids=["LN", "LNPre", "RMS", "RMSPre"])
def test_the_secant_slope_gives_the_whole_change(one: Norm) -> None:
    """slope · (other − x) = (norm(other) − norm(x)) · slope in the output, and it is the two-point rule's."""
    found = pull_back(one, X, SLOPE, "secant", OTHER)
    whole = (one(OTHER) - one(X)) * SLOPE
    torch.testing.assert_close((found * (OTHER - X)).sum(-1), whole.sum(-1), atol=1e-12, rtol=0)
    x = X.clone().requires_grad_()
    wanted = torch.autograd.grad(norm_change(one, x, OTHER), x, SLOPE[0])[0]
    torch.testing.assert_close(found[0], wanted, atol=1e-12, rtol=0)


def test_no_norm_passes_the_slope_on() -> None:
    assert torch.equal(pull_back(None, X, SLOPE), SLOPE)
