"""Optimal transport of whole distributions: Gaussian maps, LinEAS, sliced Wasserstein."""

from __future__ import annotations

import itertools

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.steering import methods
from interp.steering.methods._lineas import _frame, _marginal


def spd(draw, k):
    root = draw(k, k)
    return root @ root.T + 0.3 * torch.eye(k, dtype=torch.float64)


def test_the_map_takes_mean_and_covariance_to_the_target_and_is_symmetric_positive(draw):
    source = draw(200, 6) @ spd(draw, 6) + draw(6)
    target = draw(150, 6) @ spd(draw, 6) - 3 * draw(6)
    edit = methods.gaussian_map(source, target, 6, ridge=0.0)
    moved = edit(source)
    torch.testing.assert_close(moved.mean(0), target.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cov(moved.T), torch.cov(target.T), rtol=1e-7, atol=1e-8)
    assert torch.equal(edit.matrix, edit.matrix.T)
    assert float(torch.linalg.eigvalsh(edit.matrix).min()) > 0
    shifted = source + (target.mean(0) - source.mean(0))  # the mean difference has not the covariance
    assert (torch.cov(shifted.T) - torch.cov(target.T)).norm() > 0.5 * torch.cov(target.T).norm()


def test_of_all_maps_with_that_result_it_moves_least(draw):
    source, target = draw(400, 3) @ spd(draw, 3), draw(400, 3) @ spd(draw, 3)
    edit = methods.gaussian_map(source, target, 3, ridge=0.0)
    moved = edit(source)
    half = torch.linalg.cholesky(torch.cov(target.T))
    white = (moved - moved.mean(0)) @ torch.linalg.inv(half).T
    for _ in range(5):  # any other turn of the same distribution
        turn = torch.linalg.qr(draw(3, 3)).Q
        other = white @ turn @ half.T + moved.mean(0)
        assert (other - source).square().sum() > (moved - source).square().sum()


def test_equal_covariances_give_the_mean_shift_and_one_dimension_the_quantile_map(draw):
    source = draw(50, 5)
    target = source[torch.randperm(50, generator=torch.Generator().manual_seed(0))] + draw(5)
    edit = methods.gaussian_map(source, target, 5)
    torch.testing.assert_close(edit.matrix, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(edit(source), source + (target.mean(0) - source.mean(0)))
    one, other = 2 + 3 * draw(300, 1), -1 + 0.5 * draw(300, 1)
    line = methods.gaussian_map(one, other, 1, ridge=0.0)
    p = torch.distributions.Normal(one.mean(), one.std())
    q = torch.distributions.Normal(other.mean(), other.std())
    grid = torch.linspace(-2, 6, 9).double()
    torch.testing.assert_close(line(grid[:, None])[:, 0], q.icdf(p.cdf(grid)), rtol=1e-5, atol=1e-5)


def test_what_is_orthogonal_to_the_components_stays_and_the_edit_is_affine(draw):
    source, target = draw(30, 8), draw(30, 8) + 2
    edit = methods.gaussian_map(source, target, 2)
    h = draw(4, 3, 8)
    rest = torch.eye(8, dtype=torch.float64) - edit.basis.T @ edit.basis
    torch.testing.assert_close(edit(h) @ rest, h @ rest)
    assert (edit(h) - h).norm() > 1
    torch.testing.assert_close(edit(h), edit.linear(h) + edit.offset(h))


def test_gaussian_ot_on_a_model_strength_zero_and_gates(model, ids):
    source, target = ids[:, :5], (ids + 7) % 27 + 3
    made = methods.gaussian_ot(model, source, target, ["L1.resid_post", "L0.resid_post"], k=2)
    assert [str(where) for where in made.places] == ["L0.resid_post", "L1.resid_post"]

    def run(*interventions):
        with torch.no_grad(), steering.steer(model, *interventions):
            return logits(model, ids)

    base, whole = run(), run(made.steer())
    assert torch.equal(run(made.steer(0.0)), base)
    on = torch.tensor([True, False, True, False])
    some = run(made.steer(gate=steering.gates.rows(on)))
    assert torch.equal(some[~on], base[~on])
    assert torch.equal(some[on], whole[on])
    assert (whole - base).abs().amax((1, 2)).min() > 1e-3
    goal = steering.activations(model, target, "L1.resid_post")
    with steering.steer(model, *made.steer()):
        after = steering.activations(model, source, "L1.resid_post", engine="reference")
    U = made.maps[parse("L1.resid_post")].basis
    torch.testing.assert_close(after.mean(0) @ U.T, goal.mean(0) @ U.T, rtol=0, atol=1e-8)


def test_sliced_wasserstein_by_hand_and_to_itself(draw):
    a, b = draw(6, 1), draw(6, 1)
    every = [(a - b[list(order)]).square().mean().item() for order in itertools.permutations(range(6))]
    assert methods.sliced_wasserstein(a, b) == pytest.approx(min(every) ** 0.5, rel=1e-9)
    x = draw(40, 5)
    assert methods.sliced_wasserstein(x, x.flip(0)) < 1e-12
    near, far = (methods.sliced_wasserstein(x, x + shift) for shift in (0.1, 1.0))
    assert far == pytest.approx(10 * near, rel=1e-9)


def test_the_loss_of_lineas_sorts_over_samples_not_over_features(draw):
    x = draw(12, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert float(_marginal(x, x[order])) < 1e-20  # the same samples in another order
    assert float(_marginal(x, x.flip(1))) > 0.1  # units exchanged: a sort over features sees nothing
    torch.testing.assert_close(x.sort(1).values, x.flip(1).sort(1).values)


@pytest.fixture(scope="module")
def sides():
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randint(low, high, (48, 6), generator=generator) for low, high in ((3, 15), (15, 30))]
    return [part for draw in draws for part in (draw[:24], draw[24:])]  # source, held; target, held


def test_lineas_lowers_its_loss_below_the_closed_form_and_holds_out_of_sample(model, sides):
    source, source_held, target, target_held = sides
    places = ["L0.resid_post", "L1.resid_post", "L2.resid_post"]
    before = {name: p.clone() for name, p in model.named_parameters()}
    learned = methods.lineas(model, source, target, places, steps=120)
    assert learned.losses[-1] < 0.5 * learned.losses[0]
    assert all(b <= a for a, b in itertools.pairwise(learned.losses))
    closed = methods.linear_act(model, source, target, places)
    means = steering.mean_difference(model, target, source, layer=[0, 1, 2], site="resid_post", pos="mean")
    goal = {
        side: steering.activations(model, rows, places, "mean")
        for side, rows in (("in", target), ("out", target_held))
    }
    plain = steering.activations(model, source, places, "mean")
    spread = {where: _frame(plain[where], goal["in"][where])[1] for where in plain}

    def left(rows, side, *made):
        with steering.steer(model, *made):
            found = steering.activations(model, rows, places, "mean", engine="reference")
        return sum(float(_marginal(found[w] / spread[w], goal[side][w] / spread[w])) for w in found)

    assert learned.losses[-1] == pytest.approx(left(source, "in", *learned.steer()), rel=0.01)
    assert learned.losses[0] == pytest.approx(left(source, "in"))
    assert learned.losses[-1] < 0.99 * left(source, "in", *closed.steer())  # fitted together, nearer
    ours, mean, none = (left(source_held, "out", *m) for m in (learned.steer(), steering.add(means), ()))
    assert ours < 0.5 * mean
    assert ours < none
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        base = logits(model, source)
        with steering.steer(model, *learned.steer(0.0)):
            assert torch.equal(logits(model, source), base)


def test_a_penalty_leaves_units_and_then_places_exactly_as_they_are(model, sides):
    source, _, target, _ = sides
    zeros = []
    for penalty in (0.0, 0.02, 0.1, 0.5, 1e4):
        act = methods.lineas(model, source, target, "L1.resid_post", steps=40, penalty=penalty, group=0.0)
        (scale,), (shift,) = act.scale.values(), act.shift.values()
        zeros.append(int(((scale == 1) & (shift == 0)).sum()))
    assert zeros == sorted(zeros)
    assert zeros[0] == 0
    assert zeros[-1] == len(scale)
    assert len(set(zeros)) > 2  # some, and not all
    places = ["L0.resid_post", "L2.resid_post"]
    whole = methods.lineas(model, source, target, places, steps=40, penalty=0.5, l1=0.0)
    for scale in whole.scale.values():
        assert (
            len({bool((scale == 1).all()), bool((scale != 1).any())}) == 2
        )  # a group is on or off as a whole
    assert methods.lineas(model, source, target, places, steps=40, penalty=1e4, l1=0.0).losses[-1] > 0


def test_bad_input_before_any_pass(model, ids, draw):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for call, match in (
            (lambda: methods.gaussian_ot(model, ids, ids, "L1.resid_pre", k=0), "k is 0"),
            (lambda: methods.gaussian_ot(model, ids, ids, "L1.resid_pre", ridge=-1.0), "ridge is -1.0"),
            (lambda: methods.gaussian_map(draw(1, 3), draw(4, 3)), "two rows or more"),
            (lambda: methods.sliced_wasserstein(draw(4, 3), draw(4, 2)), "rows of one width"),
            (lambda: methods.lineas(model, ids, ids, "L1.z"), "no vector of units"),
            (lambda: methods.lineas(model, ids, ids, "L1.post", penalty=-1.0), "penalty is -1.0"),
            (lambda: methods.lineas(model, ids, ids, "L1.post", steps=0), "steps is 0"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
