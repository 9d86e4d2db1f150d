"""Logistic regression and training: the optimum, and one labelling does not disturb another."""

from __future__ import annotations

import pytest
import torch

from interp.probes._train import logistic, train
from interp.probes.aggregate import scores
from interp.probes.selectors import auroc
from interp.steering.estimators import logistic_probe


def rows(n: int, d: int, seed: int = 0, gap: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    label = (torch.arange(n) % 3 == 0).double()
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.linspace(0.5, 2, d, dtype=torch.float64)
    return x + 3 + gap * label[:, None] * torch.randn(d, generator=g, dtype=torch.float64), label


@pytest.mark.parametrize(("n", "d"), [(60, 4), (20, 50)])
def test_newton_finds_the_probe_that_steering_finds(n: int, d: int) -> None:
    x, label = rows(n, d)
    w, b = logistic(x, label[None], l2=1e-2)
    theirs, bias = logistic_probe(x[label > 0], x[label < 1], l2=1e-2, steps=2000)
    torch.testing.assert_close(x @ w[0] + b[0], x @ theirs + bias, rtol=0, atol=2e-3)
    assert (x @ theirs + bias).std() > 1


def test_the_slope_of_the_objective_is_0_at_the_optimum() -> None:
    x, label = rows(40, 6)
    w, b = logistic(x, label[None], l2=0.1)
    scale = x.std(0).square().mean().sqrt()
    v, bias = (w[0] * scale).requires_grad_(), (b[0] + x.mean(0) @ w[0]).requires_grad_()
    logit = (x - x.mean(0)) / scale @ v + bias
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label) + 0.1 * v @ v
    slope = torch.autograd.grad(loss, (v, bias))
    assert torch.cat([part.flatten() for part in slope]).abs().max() < 1e-8
    assert v.detach().norm() > 0.1


def test_separable_rows_have_a_finite_probe_that_is_right() -> None:
    x, label = rows(30, 40, gap=5.0)
    w, b = logistic(x, label[None])
    assert (((x @ w[0] + b[0]) > 0) == (label > 0)).all()
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("kind", ["mean", "ema", "multimax"])
def test_labellings_are_trained_as_each_would_be_alone(kind: str) -> None:
    g = torch.Generator().manual_seed(3)
    tokens = torch.randn(24, 6, 4, generator=g, dtype=torch.float64)
    real = torch.arange(6) < torch.randint(1, 7, (24,), generator=g)[:, None]
    labels = (torch.rand(3, 24, generator=g) < 0.5).double()
    together = train(kind, tokens, real, labels, steps=40)
    for row in range(3):
        alone = train(kind, tokens, real, labels[row : row + 1], steps=40)
        torch.testing.assert_close(together.v[row], alone.v[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.b[row], alone.b[0], rtol=0, atol=1e-6)
    assert (together.v[0] - together.v[1]).abs().max() > 0.01


def test_training_through_a_maximum_lowers_the_loss_and_leaves_the_generator_alone() -> None:
    from interp.probes._train import _loss

    g = torch.Generator().manual_seed(5)
    tokens = torch.randn(40, 8, 4, generator=g, dtype=torch.float64)
    label = (torch.arange(40) % 2).double()
    tokens[label > 0, 3, 1] += 4
    real = torch.ones(40, 8, dtype=torch.bool)
    state = torch.get_rng_state()
    made = [train("mean", tokens, real, label[None])]  # what it begins with
    made += [train("multimax", tokens, real, label[None], steps=n) for n in (1, 200)]
    losses = [_loss("multimax", tokens, real, label[None], each, 0.0).item() for each in made]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.5 * losses[0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["ema", "attention", "multimax", "rolling"])
def test_tokens_that_all_prompts_share_do_not_hide_the_one_that_differs(kind: str) -> None:
    """A maximum at a token that is the same everywhere says the same of every prompt, and has no slope that
    would tell them apart: training must not end there where its start, the probe of the mean, is right."""
    g = torch.Generator().manual_seed(0)
    shared = 2 * torch.randn(12, 16, generator=g, dtype=torch.float64)
    label = (torch.arange(24) % 2).double()
    tokens = shared.repeat(24, 1, 1) + 0.01 * torch.randn(24, 12, 16, generator=g, dtype=torch.float64)
    tokens[:, -1] += (2 * label - 1)[:, None] * torch.randn(16, generator=g, dtype=torch.float64)
    real = torch.ones(24, 12, dtype=torch.bool)
    found = scores(kind, tokens, real, train(kind, tokens, real, label[None]))[0]
    assert float(auroc(found[label > 0.5][:, None], found[label < 0.5][:, None])[0]) == 1.0
