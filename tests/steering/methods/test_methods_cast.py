"""CAST: the best threshold against brute force; rows that do not meet the condition are untouched."""

from __future__ import annotations

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.steering import methods
from interp.steering.methods._cast import best_threshold, similarity


def f1(on, off, threshold, below):
    tp = sum((x < threshold) if below else (x > threshold) for x in on)
    fp = sum((x < threshold) if below else (x > threshold) for x in off)
    return 2 * tp / (2 * tp + fp + (len(on) - tp))


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_has_the_largest_f1_of_a_fine_grid(seed):
    generator = torch.Generator().manual_seed(seed)
    shift = (-1) ** seed * 0.8
    on = torch.randn(9, generator=generator, dtype=torch.float64) + shift
    off = torch.randn(14, generator=generator, dtype=torch.float64)
    threshold, below, found = best_threshold(on, off)
    assert found == pytest.approx(f1(on.tolist(), off.tolist(), threshold, below))
    inside = torch.cat((on, off)).sort().values
    grid = [t for t in torch.linspace(-4, 4, 4001).tolist() if inside[0] < t < inside[-1]]
    assert found == pytest.approx(
        max(f1(on.tolist(), off.tolist(), t, b) for t in grid for b in (False, True))
    )


def test_separable_prompts_have_f1_one_and_a_threshold_in_the_middle_of_the_gap():
    on, off = torch.tensor([0.1, 0.2]).double(), torch.tensor([0.6, 0.9]).double()
    assert best_threshold(on, off) == (pytest.approx(0.4), True, 1.0)
    assert best_threshold(off, on) == (pytest.approx(0.4), False, 1.0)
    threshold, below, found = best_threshold(on, off, [0.15, 0.5, 0.7])
    assert (threshold, below, found) == (0.5, True, 1.0)


def test_the_similarity_is_that_of_the_projection_matrix(draw):
    h, c = 0.7 * draw(5, 24), draw(24)
    matrix = torch.outer(c, c) / (c @ c)
    by_hand = torch.cosine_similarity(h, torch.tanh(h @ matrix.T), dim=-1)
    torch.testing.assert_close(similarity(h, c), by_hand)
    small = similarity(1e-4 * h, c)  # tanh is the identity: |cosine|, its sign lost
    torch.testing.assert_close(
        small, torch.cosine_similarity(h, c.expand_as(h), dim=-1).abs(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(similarity(h, c, "cosine"), torch.cosine_similarity(h, c.expand_as(h), dim=-1))


@pytest.fixture
def prompts():
    """Prompts of which most tokens are token 4, and prompts without it."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(6, 30, (24, 6), generator=generator)
    with_marker = rows.clone()
    with_marker[:, 1:5] = 4
    return with_marker, rows


@pytest.mark.parametrize("kind", ["tanh", "cosine"])
def test_rows_on_are_fully_steered_and_rows_off_are_the_model_to_the_bit(toy, prompts, draw, kind):
    marked, plain = prompts
    condition = methods.cast_condition(
        toy, marked[:16], plain[:16], layer=[0, 1], site="resid_post", kind=kind
    )
    assert condition.f1 == max(condition.by_place.values())
    assert condition.f1 > 2 / 3  # what a gate that is always on has
    batch = torch.cat((marked[16:], plain[16:]))
    on = condition.decide(toy, batch)
    assert 0 < on.sum() < len(batch)
    if kind == "cosine":  # tanh loses the sign, which tells these classes apart
        assert condition.f1 > 0.85
        assert (on == (torch.arange(16) < 8)).double().mean() > 0.8  # prompts that were not in the fit
    behaviour = steering.Direction.from_tensor(draw(24), "L2.resid_pre")

    def run(*made):
        with torch.no_grad(), steering.steer(toy, *made):
            return logits(toy, batch)

    base, full = run(), run(steering.add(behaviour, 4.0))
    got = run(methods.cast(condition, behaviour, 4.0))
    assert torch.equal(got[~on], base[~on])
    assert torch.equal(got[on], full[on])
    assert (full - base).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("turned", [False, True])
def test_the_f1_is_that_of_the_decisions_also_of_a_condition_that_holds_below(model, prompts, turned):
    marked, plain = prompts
    direction = steering.mean_difference(model, marked, plain, layer=1, pos="mean")
    on, off = (plain, marked) if turned else (marked, plain)
    condition = methods.cast_condition(model, on, off, vectors=direction, kind="cosine")
    assert condition.below == turned
    right, wrong = (int(condition.decide(model, rows).sum()) for rows in (on, off))
    assert condition.f1 == pytest.approx(2 * right / (right + wrong + len(on)))
    assert condition.f1 > 0.9


def test_the_decision_is_held_while_tokens_are_generated(model, prompts, draw):
    marked, plain = prompts
    condition = methods.cast_condition(model, marked[:16], plain[:16], layer=0, site="resid_post")
    batch = torch.cat((marked[16:20], plain[16:20]))
    on = condition.decide(model, batch)
    behaviour = steering.Direction.from_tensor(20 * draw(24), "L2.resid_pre")
    whole = steering.generate(model, batch, steering.add(behaviour), max_new_tokens=6)
    base = steering.generate(model, batch, max_new_tokens=6)
    assert 0 < on.sum() < len(on)
    for use_cache in (True, False):
        got = steering.generate(
            model, batch, methods.cast(condition, behaviour), max_new_tokens=6, use_cache=use_cache
        )
        assert torch.equal(got[on], whole[on])
        assert torch.equal(got[~on], base[~on])
    assert not torch.equal(whole[on], base[on])


def test_bad_input_before_any_pass(model, ids, draw):
    later = methods.cast_condition(model, ids[:2], ids[2:], layer=2)
    behaviour = steering.Direction.from_tensor(draw(24), "L1.resid_pre")
    other = steering.Direction.from_tensor(draw(24), "L1.resid_pre", model="another")
    one = torch.ones(3).double()
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))

    def steered(made):
        with steering.steer(model, made):
            model(ids)

    try:
        for call, match in (
            (lambda: methods.cast_condition(model, ids, []), "negative: got no prompts"),
            (lambda: methods.cast_condition(model, ids, ids, kind="dot"), "kind is 'dot'"),
            (lambda: methods.cast_condition(model, ids, ids, layer=9), "out of range"),
            (lambda: methods.cast_condition(model, ids, ids, thresholds=[]), "thresholds is empty"),
            (lambda: methods.cast_condition(model, ids, ids, thresholds=[float("nan")]), "a number"),
            (lambda: methods.cast_condition(model, ids, ids, vectors=other), "found on model 'another'"),
            (lambda: steered(methods.cast(later, behaviour)), "comes after the intervention"),
            (lambda: best_threshold(one, one), "all similarities are 1"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
