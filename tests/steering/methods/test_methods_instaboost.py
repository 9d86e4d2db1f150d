"""InstABoost: attention to the instruction by hand, in every layer, with and without a cache."""

from __future__ import annotations

import warnings

import pytest
import torch
from small import patterns

from interp import positions, steering
from interp.steering import methods

SPAN = (1, 4)


@pytest.mark.parametrize("factor", [0.2, 2.0, 20.0])
def test_the_first_layer_is_multiplied_and_normalised_again(toy, ids, factor, within):
    old, _ = patterns(toy, ids)
    new, _ = patterns(toy, ids, methods.boost_attention(toy, SPAN, factor))
    weight = torch.ones(6).double()
    weight[slice(*SPAN)] = factor
    by_hand = old[0] * weight
    torch.testing.assert_close(new[0], by_hand / by_hand.sum(-1, keepdim=True), rtol=within, atol=within)
    torch.testing.assert_close(new.sum(-1), torch.ones(3, 4, 4, 6).double(), rtol=0, atol=max(within, 1e-7))
    mass = old[0][..., slice(*SPAN)].sum(-1)
    wanted = mass * factor / (1 + mass * (factor - 1))
    torch.testing.assert_close(new[0][..., slice(*SPAN)].sum(-1), wanted, rtol=within, atol=within)
    assert torch.equal(new[0][:, :, 0], old[0][:, :, 0])  # position 0 does not see the instruction


def test_the_mass_on_the_instruction_grows_with_the_factor_in_every_layer(model, ids):
    masses = []
    for factor in (0.5, 1.0, 2.0, 5.0, 20.0):
        seen, _ = patterns(model, ids, methods.boost_attention(model, SPAN, factor))
        masses.append(seen[..., -1, slice(*SPAN)].sum(-1).mean((1, 2)))
    grown = torch.stack(masses).diff(dim=0)  # [step, layer]
    assert (grown > 0).all()


def test_a_factor_of_one_is_the_model_to_the_bit_and_heads_and_layers_are_chosen(model, ids):
    base, out = patterns(model, ids)
    same, same_out = patterns(model, ids, methods.boost_attention(model, SPAN, 1))
    assert torch.equal(same, base)
    assert torch.equal(same_out, out)
    new, _ = patterns(model, ids, methods.boost_attention(model, SPAN, 5.0, layer=[1], heads=[0, 2]))
    changed = (new != base).flatten(3).any(-1).any(1)  # [layer, head]
    assert changed[0].tolist() == [False] * 4
    assert changed[1].tolist() == [True, False, True, False]
    late, _ = patterns(model, ids, methods.boost_attention(model, SPAN, 5.0, layer=0, when=positions.at(-1)))
    assert torch.equal(late[0][:, :, :-1], base[0][:, :, :-1])
    assert not torch.equal(late[0][:, :, -1], base[0][:, :, -1])


def test_generation_boosts_the_same_positions_with_and_without_a_cache_and_under_padding(toy, ids):
    """By the weights, with a cache and without, and by the model under hooks: the same tokens."""
    made = methods.boost_attention(toy, SPAN, 30.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = steering.generate(toy, ids, made, max_new_tokens=6, engine="fast")
    for options in ({"engine": "fast", "use_cache": False}, {"engine": "reference", "use_cache": False}):
        assert torch.equal(whole, steering.generate(toy, ids, made, max_new_tokens=6, **options))
    plain = steering.generate(toy, ids, max_new_tokens=6)
    assert not torch.equal(whole, plain)
    same = methods.boost_attention(toy, SPAN, 1.0)
    assert torch.equal(steering.generate(toy, ids, same, max_new_tokens=6), plain)
    rows = [ids[0, :5].tolist(), ids[1].tolist()]
    together = steering.generate(toy, rows, made, max_new_tokens=6)
    alone = steering.generate(toy, ids[:1, :5], made, max_new_tokens=6)
    assert torch.equal(together[0, :11], alone[0])


def test_bad_input_before_any_pass(model, ids):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for call, match in (
            (lambda: methods.boost_attention(model, SPAN, 0.0), "above 0"),
            (lambda: methods.boost_attention(model, SPAN, float("inf")), "finite"),
            (lambda: methods.boost_attention(model, (3, 3), 2.0), r"instruction is \(3, 3\)"),
            (lambda: methods.boost_attention(model, SPAN, 2.0, layer=3), "out of range"),
            (lambda: methods.boost_attention(model, SPAN, 2.0, heads=[4]), "heads 0 to 3"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
