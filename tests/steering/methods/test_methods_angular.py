"""Selective steering: rotations keep norms, and the layers are those where the classes lie opposite."""

from __future__ import annotations

import math

import architectures
import pytest
import torch

from interp import steering
from interp.models import logits
from interp.places import Place
from interp.steering import methods
from interp.steering.methods import _angular as angular


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def run(model, tokens, *made):
    with torch.no_grad(), steering.steer(model, *made):
        return logits(model, tokens)


@pytest.fixture
def classes(draw):
    """Four places: the classes lie opposite on one axis at the last two, and on one side at the first two."""
    axis = unit(draw(24))
    levels = torch.tensor([[3.0, 1.0], [3.0, 2.0], [3.0, -3.0], [2.0, -4.0]], dtype=torch.float64)
    noise = [0.3 * draw(4, n, 24) for n in (30, 20)]
    return [noise[side] + levels[:, side, None, None] * axis for side in (0, 1)], axis


def test_the_plane_is_orthonormal_and_b1_the_candidate_most_like_the_others(classes):
    (up, down), axis = classes
    found = angular.candidates(up, down)
    first, second, chosen = angular.plane(found)
    mutual = torch.tensor(
        [[torch.cosine_similarity(a, b, dim=0).item() for b in found] for a in found], dtype=torch.float64
    )
    assert chosen == int(mutual.mean(1).argmax())
    assert first.norm().item() == pytest.approx(1, abs=1e-12)
    assert second.norm().item() == pytest.approx(1, abs=1e-12)
    assert abs(first @ second) < 1e-12
    assert torch.cosine_similarity(first, axis, dim=0) > 0.98
    centred = found - found.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    lost = vectors[:, -1] - (vectors[:, -1] @ first) * first - (vectors[:, -1] @ second) * second
    assert lost.norm() < 1e-9  # the principal component lies in the plane


def test_the_discriminative_places_are_those_of_the_planted_signs(classes):
    (up, down), axis = classes
    seen = angular.projections(up, down, axis)
    by_hand = torch.stack([(unit(rows) @ axis).mean(1) for rows in (up, down)])
    torch.testing.assert_close(seen, by_hand)
    assert (seen.prod(0) < 0).tolist() == [False, False, True, True]


@pytest.fixture
def made(model, ids):
    return methods.steering_plane(model, ids[:2], ids[2:])


def at_place(model, ids, where, *interventions):
    """The stream before and after the interventions at a place (the next site down is the same stream)."""
    seen = []
    name = f"blocks.{where.layer}.hook_resid_pre"
    keep = [(name, lambda tensor, hook: seen.append(tensor.clone()))]
    with torch.no_grad(), model.hooks(fwd_hooks=keep), steering.steer(model, *interventions):
        logits(model, ids)
    with torch.no_grad(), steering.steer(model, *interventions), model.hooks(fwd_hooks=keep):
        logits(model, ids)
    return seen


@pytest.mark.parametrize("angle", [0.7, math.pi, -2.0])
def test_rotation_keeps_norms_and_the_complement_and_turns_by_the_angle(model, ids, made, angle):
    where = Place("resid_pre", 1)
    old, new = at_place(model, ids, where, made.rotate(angle, at=[where]))
    torch.testing.assert_close(new.norm(dim=-1), old.norm(dim=-1), rtol=1e-12, atol=0)
    axes = torch.stack((made.first, made.second))
    torch.testing.assert_close(new - (new @ axes.T) @ axes, old - (old @ axes.T) @ axes)
    complex_old, complex_new = (torch.complex(*(h @ axes.T).unbind(-1)) for h in (old, new))
    torch.testing.assert_close(complex_new, complex_old * complex(math.cos(angle), math.sin(angle)))


def test_angles_add_and_zero_is_the_model_itself(model, ids, made):
    two = [Place("resid_pre", layer) for layer in (1, 2)]
    base = run(model, ids)
    assert torch.equal(run(model, ids, made.rotate(0.0, at=two)), base)
    apart = run(model, ids, made.rotate(0.4, at=two), made.rotate(0.5, at=two))
    whole = run(model, ids, made.rotate(0.9, at=two))
    torch.testing.assert_close(apart, whole)
    assert (whole - base).abs().max() > 1e-2


def test_to_angle_is_idempotent_and_adaptive_leaves_the_other_side_alone(model, ids, made):
    where = Place("resid_pre", 1)
    old, new = at_place(model, ids, where, made.to_angle(1.0, at=[where]))
    axes = torch.stack((made.first, made.second))
    angles = torch.atan2(*(new @ axes.T).flip(-1).unbind(-1))
    torch.testing.assert_close(angles, torch.ones_like(angles))
    _, again = at_place(model, ids, where, made.to_angle(1.0, at=[where]), made.to_angle(1.0, at=[where]))
    torch.testing.assert_close(again, new)
    _, half = at_place(model, ids, where, made.to_angle(1.0, adaptive=True, at=[where]))
    towards = old @ made.first > 0
    assert 0 < towards.sum() < towards.numel()
    assert torch.equal(half[~towards], old[~towards])
    torch.testing.assert_close(half[towards], new[towards])


def test_the_model_is_turned_at_discriminative_layers_only():
    """A model whose MLPs write nothing but an axis with a sign by class, from layer 1 on."""
    model = architectures.build(
        {"normalization_type": None, "attn_only": True, "d_mlp": None, "act_fn": None}
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn" in name:
                parameter.zero_()
        axis, generator = torch.zeros(24, dtype=torch.float64), torch.Generator().manual_seed(0)
        axis[0] = 1.0
        model.embed.W_E.copy_(0.1 * torch.randn(30, 24, generator=generator, dtype=torch.float64))
        model.pos_embed.W_pos.zero_()
        model.embed.W_E[:15, 0], model.embed.W_E[15:, 0] = 3.0, 1.0  # both on one side
        model.blocks[0].attn.b_O.copy_(-2.0 * axis)  # 1 against -1 from layer 1 on
        model.blocks[1].attn.b_O.copy_(-0.5 * axis)
    up, down = torch.arange(15)[:, None], torch.arange(15, 30)[:, None]
    found = methods.steering_plane(model, up, down)
    assert [where.layer for where in found.discriminative] == [1, 2]
    assert [each.place.layer for each in found.rotate(0.3)] == [1, 2]
    assert (found.projections[0] > 0).all()


def test_bad_input_before_any_pass(model, ids, draw):
    calls = []
    model.add_hook("hook_embed", lambda tensor, hook: calls.append(1))
    try:
        for call, match in (
            (lambda: methods.steering_plane(model, ids, ids, layer=1), "two layers or more, got 1"),
            (lambda: methods.steering_plane(model, ids, []), "negative: got no prompts"),
            (lambda: methods.steering_plane(model, ids, ids, layer=[0, 9]), "layer 9 is out of range"),
            (lambda: methods.steering_plane(model, ids, ids, site="stream"), "unknown site"),
            (lambda: angular.plane(draw(1, 24)), "two layers or more"),
            (lambda: angular.plane(draw(1, 24).repeat(3, 1) * torch.arange(1.0, 4.0)[:, None]), "parallel"),
        ):
            with pytest.raises(ValueError, match=match):
                call()
    finally:
        model.reset_hooks()
    assert not calls
    same = torch.full((2, 3), 0.5, dtype=torch.float64)
    nowhere = methods.SteeringPlane(
        *torch.eye(24, dtype=torch.float64)[:2], tuple(Place("resid_pre", i) for i in range(3)),
        same, torch.zeros(3, dtype=torch.bool), Place("resid_pre", 0),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no place is discriminative"):
        nowhere.rotate(1.0)
    with pytest.raises(ValueError, match="either it or gate"):
        nowhere.to_angle(1.0, adaptive=True, gate=steering.gates.rows(torch.ones(4, dtype=torch.bool)))
