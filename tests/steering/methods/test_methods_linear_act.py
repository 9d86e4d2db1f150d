"""Linear-AcT: the closed form against brute force, and what it does to a model's activations."""

from __future__ import annotations

import itertools

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.steering import methods
from interp.steering.methods._linear_act import coupling, transport_map


def w2(a, b):
    """Squared Wasserstein distance of equally many samples, by unit."""
    return (a.sort(0).values - b.sort(0).values).square().mean(0)


def test_the_coupling_is_the_cheapest_of_all_pairings(draw):
    a, b = draw(6), draw(6)
    i, j, share = coupling(6, 6)
    ours = (share * (a.sort().values[i] - b.sort().values[j]).square()).sum()
    every = [(a - b[list(order)]).square().mean().item() for order in itertools.permutations(range(6))]
    assert ours.item() == pytest.approx(min(every), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 6), (7, 3), (1, 5)])
def test_unequal_counts_are_those_of_both_samples_repeated_to_a_common_number(draw, n, m):
    a, b = draw(n, 5), 2 + 3 * draw(m, 5)
    scale, shift = transport_map(a, b)
    long = transport_map(a.repeat_interleave(m, 0), b.repeat_interleave(n, 0))
    torch.testing.assert_close(scale, long[0])
    torch.testing.assert_close(shift, long[1])
    i, j, share = coupling(n, m)
    assert len(i) <= n + m - 1
    torch.testing.assert_close(
        torch.zeros(n).double().index_add(0, i, share), torch.full((n,), 1 / n).double()
    )
    torch.testing.assert_close(
        torch.zeros(m).double().index_add(0, j, share), torch.full((m,), 1 / m).double()
    )


def test_the_map_is_the_least_squares_line_on_sorted_samples_of_each_unit(draw):
    a, b = draw(40, 3), draw(40, 3).exp()
    scale, shift = transport_map(a, b)
    for unit in range(3):
        x, y = a[:, unit].sort().values, b[:, unit].sort().values
        line = torch.linalg.lstsq(torch.stack((x, torch.ones(40).double()), 1), y).solution
        torch.testing.assert_close(torch.stack((scale[unit], shift[unit])), line)
    assert (scale >= 0).all()
    grid = torch.linspace(-0.3, 0.3, 7).double()
    ours = (a * scale + shift).sort(0).values - b.sort(0).values
    for ds, dt in itertools.product(grid, grid):
        other = (a * (scale + ds) + shift + dt) - b[b.argsort(0), torch.arange(3)].gather(
            0, a.argsort(0).argsort(0)
        )
        assert (other.square().mean(0) >= ours.square().mean(0) - 1e-12).all()


def test_exact_on_scale_and_shift_where_the_mean_difference_is_not(draw):
    wanted = torch.rand(8, generator=torch.Generator().manual_seed(0)).double() * 3 + 0.2
    a = draw(50, 8)
    b = (a * wanted - 4 * wanted)[torch.randperm(50, generator=torch.Generator().manual_seed(1))]
    scale, shift = transport_map(a, b)
    torch.testing.assert_close(scale, wanted)
    torch.testing.assert_close(shift, -4 * wanted)
    assert w2(a * scale + shift, b).max() < 1e-20
    assert w2(a + (b.mean(0) - a.mean(0)), b).mean() > 0.1


def test_a_pure_shift_is_the_mean_difference_and_a_constant_unit_is_only_shifted(draw):
    a = draw(30, 4)
    b = (a + 2.5)[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    scale, shift = transport_map(a, b)
    torch.testing.assert_close(scale, torch.ones_like(scale))
    torch.testing.assert_close(shift, b.mean(0) - a.mean(0))
    constant = transport_map(torch.full((30, 1), 3.1), draw(20, 1).float())
    assert constant[0].tolist() == [1.0]


def test_steered_activations_have_the_marginals_of_the_target_if_maps_are_fitted_one_upon_another(model):
    generator = torch.Generator().manual_seed(3)
    source = torch.randint(3, 15, (24, 6), generator=generator)
    target = torch.randint(15, 30, (24, 6), generator=generator)
    first, second = (parse(name) for name in ("L0.resid_post", "L1.resid_post"))
    goal = steering.activations(model, target, [first, second], "mean")
    before = steering.activations(model, source, [first, second], "mean")
    gap = {}
    for incremental in (True, False):
        fitted = methods.linear_act(model, source, target, [second, first], incremental=incremental)
        assert fitted.places == (first, second)
        alone = transport_map(before[first], goal[first])
        torch.testing.assert_close((fitted.scale[first], fitted.shift[first]), alone)
        with steering.steer(model, *fitted.steer()):
            after = steering.activations(model, source, [first, second], "mean", engine="reference")
        torch.testing.assert_close(after[first], before[first] * alone[0] + alone[1])
        gap[incremental] = {where: w2(after[where], goal[where]).mean().item() for where in goal}
        with steering.steer(model, *methods.LinearAct({first: alone[0]}, {first: alone[1]}).steer()):
            under = steering.activations(model, source, second, "mean", engine="reference")
        together = transport_map(under if incremental else before[second], goal[second])
        torch.testing.assert_close((fitted.scale[second], fitted.shift[second]), together)
    for where in goal:
        assert w2(before[where], goal[where]).mean().item() > 5 * gap[True][where]
    assert gap[False][second] > 2 * gap[True][second]


def test_strength_zero_is_the_model_and_rows_gated_off_are_too(model, ids):
    fitted = methods.linear_act(model, ids[:2], ids[2:], ["L1.post", "L1H2"])

    def run(*made):
        with torch.no_grad(), steering.steer(model, *made):
            return logits(model, ids)

    base, whole = run(), run(fitted.steer())
    assert torch.equal(run(fitted.steer(0.0)), base)
    on = torch.tensor([True, False, True, False])
    some = run(fitted.steer(gate=steering.gates.rows(on)))
    assert torch.equal(some[~on], base[~on])
    assert torch.equal(some[on], whole[on])
    assert (whole - base).abs().amax((1, 2)).min() > 1e-3


def test_bad_input_before_any_pass(model, ids, draw):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for call, match in (
            (lambda: methods.linear_act(model, ids, ids, []), "sites is empty"),
            (lambda: methods.linear_act(model, ids, ids, "L1.z"), "no vector of units"),
            (lambda: methods.linear_act(model, ids, ids, ["L1.post", "L1.post"]), "twice; give each once"),
            (lambda: methods.linear_act(model, ids, ids, "L7.post"), "out of range"),
            (lambda: methods.linear_act(model, ids[:0], ids, "L1.post"), "source: there are 0 prompts"),
            (lambda: methods.linear_act(model, ids, ids, "L1.post", pos=9), "outside prompt 0"),
            (lambda: transport_map(draw(0, 4), draw(3, 4)), "the source has 0 rows"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
