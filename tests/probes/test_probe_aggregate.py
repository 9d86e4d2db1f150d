"""Each aggregation against a loop over prompts and tokens, and what padding and length do to it."""

from __future__ import annotations

import math

import pytest
import torch

from interp.probes._train import train
from interp.probes.aggregate import KINDS, WINDOW, Weights, scores
from interp.probes.selectors import auroc

D = 5


def drawn(
    n: int, n_pos: int, heads: int, fits: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, Weights]:
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    lengths = torch.randint(1, n_pos + 1, (n,), generator=g)
    lengths[0] = n_pos
    real = torch.arange(n_pos) < lengths[:, None]
    weights = Weights(normal(fits, D, heads), normal(fits, D, heads), normal(fits))
    return normal(n, n_pos, D), real, weights


def slow(kind: str, tokens: list, v: list, q: list, b: float) -> float:
    """One prompt, one probe, in plain numbers. tokens [pos][d], v and q [head][d]."""

    def dot(x: list, y: list) -> float:
        return sum(a * c for a, c in zip(x, y))

    def attended(rows: list, head: int) -> float:
        weight = [math.exp(dot(row, q[head])) for row in rows]
        return sum(w * dot(row, v[head]) for w, row in zip(weight, rows)) / sum(weight)

    heads = range(len(v))
    if kind == "mean":
        return b + sum(dot(row, v[h]) for row in tokens for h in heads) / len(tokens)
    if kind == "ema":
        means = []
        for row in tokens:
            s = sum(dot(row, v[h]) for h in heads)
            means.append(s if not means else 0.5 * s + 0.5 * means[-1])
        return b + max(means)
    if kind == "attention":
        return b + sum(attended(tokens, h) for h in heads)
    if kind == "multimax":
        return b + sum(max(dot(row, v[h]) for row in tokens) for h in heads)
    ends = range(1, len(tokens) + 1)
    return b + max(sum(attended(tokens[max(0, end - WINDOW) : end], h) for h in heads) for end in ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_aggregation_is_its_loop(kind: str, heads: int) -> None:
    tokens, real, weights = drawn(n=4, n_pos=14, heads=heads, fits=2)
    found = scores(kind, tokens, real, weights)
    for fit in range(2):
        v, q = (part[fit].T.tolist() for part in (weights.v, weights.q))
        for prompt in range(4):
            rows = tokens[prompt][real[prompt]].tolist()
            expected = slow(kind, rows, v, q, weights.b[fit].item())
            assert found[fit, prompt].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_padding_and_how_much_of_it_there_is_changes_nothing(kind: str) -> None:
    tokens, real, weights = drawn(n=5, n_pos=9, heads=2, fits=2)
    before = scores(kind, tokens, real, weights)
    dirty = torch.where(real[..., None], tokens, torch.tensor(1e6, dtype=torch.float64))
    wide = torch.nn.functional.pad(dirty, (0, 0, 0, 7), value=-1e6)
    after = scores(kind, wide, torch.nn.functional.pad(real, (0, 7)), weights)
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert before.std() > 0.1


def test_a_spike_in_a_long_prompt_is_lost_in_a_mean_and_found_by_a_maximum() -> None:
    """Trained on 32 tokens, tested on 512: one token of six standard deviations in the positive prompts."""

    def spiked(n: int, n_pos: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        g = torch.Generator().manual_seed(seed)
        x = torch.randn(n, n_pos, 16, generator=g, dtype=torch.float64)
        positive, at = torch.arange(n) % 2 == 0, torch.randint(n_pos, (n,), generator=g)
        x[positive, at[positive], 0] += 6.0
        return x, torch.ones(n, n_pos, dtype=torch.bool), positive

    (x, real, y), (long, all_real, truth) = spiked(200, 32, 0), spiked(200, 512, 1)
    area = {}
    for kind in ("mean", "attention", "multimax"):
        weights = train(kind, x, real, y.double()[None])
        found = scores(kind, long, all_real, weights)[0][:, None]
        area[kind] = auroc(found[truth], found[~truth]).item()
    assert area["mean"] < 0.7 < 0.85 < area["attention"] < 0.97 < area["multimax"]


def test_an_unknown_aggregation_is_refused() -> None:
    tokens, real, weights = drawn(n=2, n_pos=3, heads=1, fits=1)
    with pytest.raises(ValueError, match="'median'; use one of mean, ema"):
        scores("median", tokens, real, weights)
