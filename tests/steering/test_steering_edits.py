"""The algebra of the edits, on tensors and in models."""

from __future__ import annotations

import math

import architectures
import pytest
import torch

from interp import steering
from interp.models import anatomy, logits
from interp.steering._edit_types import (
    Ablate,
    Add,
    Affine,
    Clamp,
    Gradient,
    Rotate,
    ScaleUnits,
    SetUnits,
    ToAngle,
)


def unit(v):
    return v / v.norm()


@pytest.mark.parametrize("k", [1, 3])
def test_ablation_removes_the_span_of_vectors_that_are_not_orthogonal(draw, k):
    h, V = draw(3, 5, 24), draw(k, 24)
    V = torch.cat((V, V[:1] + 1e-1 * draw(1, 24), 2 * V[:1]))  # oblique, and one dependent
    out = Ablate(V)(h)
    assert (out @ V.T).abs().max() <= 1e-9
    assert Ablate(V).span.shape[0] == k + 1
    torch.testing.assert_close(Ablate(V)(out), out, rtol=0, atol=1e-12)
    torch.testing.assert_close(Ablate(V, 0.25)(h), h + 0.25 * (out - h), rtol=0, atol=1e-12)
    for v in V:  # removing the vectors one after another leaves parts of an oblique set
        h = h - (h @ unit(v)).unsqueeze(-1) * unit(v)
    assert (h @ V.T).abs().max() > 1e-3


def test_rotations_keep_norms_compose_and_invert(draw):
    h, p, q = draw(3, 5, 24), draw(24), draw(24)
    turned = Rotate(p, q, 0.7)(h)
    torch.testing.assert_close(turned.norm(dim=-1), h.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(Rotate(p, q, -0.7)(turned), h, rtol=0, atol=1e-12)
    torch.testing.assert_close(Rotate(p, q, 0.4)(turned), Rotate(p, q, 1.1)(h), rtol=0, atol=1e-12)
    outside = Ablate(torch.stack((p, q)))
    torch.testing.assert_close(outside(turned), outside(h), rtol=0, atol=1e-12)
    torch.testing.assert_close(Rotate(p, q, math.pi / 2)(unit(p)), unit(q - (q @ unit(p)) * unit(p)))
    assert (turned - h).abs().max() > 0.1


def test_to_angle_points_every_activation_at_the_angle(draw):
    h, p, q = draw(3, 5, 24), draw(24), draw(24)
    out = ToAngle(p, q, 0.7)(h)
    b1, b2 = unit(p), unit(q - (q @ unit(p)) * unit(p))
    torch.testing.assert_close(torch.atan2(out @ b2, out @ b1), torch.full((3, 5), 0.7).double())
    torch.testing.assert_close(out.norm(dim=-1), h.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(ToAngle(p, q, 0.7)(out), out, rtol=0, atol=1e-12)


def test_clamp_hits_its_value(draw):
    h, v = draw(3, 5, 24), draw(24)
    for bound, wanted in (
        (None, lambda x: x * 0 + 0.3),
        ("min", lambda x: x.clamp(min=0.3)),
        ("max", lambda x: x.clamp(max=0.3)),
    ):
        torch.testing.assert_close(Clamp(v, 0.3, bound)(h) @ unit(v), wanted(h @ unit(v)))
    out = Clamp(v, 0.3)(h)
    torch.testing.assert_close(Ablate(v[None])(out), Ablate(v[None])(h), rtol=0, atol=1e-12)


def test_affine_and_units(draw):
    h, scale, shift = draw(3, 5, 24), draw(24), draw(24)
    torch.testing.assert_close(Affine(scale, shift)(h), h * scale + shift)
    torch.testing.assert_close(Affine(scale, shift, 0.5)(h), (h + h * scale + shift) / 2)
    assert torch.equal(ScaleUnits((3, 5), 2.0)(h)[..., [3, 5]], 2 * h[..., [3, 5]])
    assert torch.equal(ScaleUnits((3, 5), 2.0)(h)[..., [0, 4]], h[..., [0, 4]])
    assert torch.equal(
        SetUnits((3, 5), torch.tensor([1.0, 2.0]))(h)[0, 0, [3, 4, 5]],
        torch.stack((torch.tensor(1.0).double(), h[0, 0, 4], torch.tensor(2.0).double())),
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda draw: Add(draw(24), 2.0),
        lambda draw: Ablate(draw(2, 24), 0.7),
        lambda draw: Clamp(draw(24), 0.4),
        lambda draw: Affine(draw(24), draw(24), 0.6),
        lambda draw: Rotate(draw(24), draw(24), 0.5),
        lambda draw: ScaleUnits((1, 2), 3.0),
        lambda draw: SetUnits((1, 2), 3.0),
    ],
)
def test_affine_edits_are_their_linear_part_and_offset(draw, edit):
    made, h = edit(draw), draw(4, 24)
    torch.testing.assert_close(made(h), made.linear(h) + made.offset(h[0]), rtol=0, atol=1e-12)
    assert (made(h) - h).abs().max() > 0.05


def test_the_gradient_of_a_linear_classifier_is_a_difference_of_rows(draw):
    W, h = draw(3, 24), draw(2, 5, 24)
    out = Gradient(lambda x: x @ W[1] - x @ W[0], 0.5)(h)
    torch.testing.assert_close(out, h + 0.5 * (W[1] - W[0]), rtol=0, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(Gradient(lambda x: x @ W[1] - x @ W[0], 0.5)(h.clone()), out)
    curved = Gradient(lambda x: x.square().sum(-1), 2.0, True)(h)
    torch.testing.assert_close(curved, h + 2 * h / h.norm(dim=-1, keepdim=True))


def test_three_forms_of_ablation_agree(toy, ids, draw):
    """Every residual site, every writer, and the weights with their biases; without the biases it is off."""
    facts = anatomy(toy)
    direction = steering.Direction({steering.writers(facts)[0]: draw(2, 24)}, layout="basis")
    residual = [place for layer in range(3) for place in _stream(facts, layer)]
    writers = steering.ablate(direction.spread(steering.writers(facts)))
    seen = []
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    keep = [(name, lambda tensor, hook: seen.append(tensor.clone())) for name in names]
    with torch.no_grad(), steering.steer(toy, writers):
        by_writers = logits(toy, ids)
        toy.run_with_hooks(ids, fwd_hooks=keep)
    basis = direction.vectors[direction.place]
    assert max((stream @ basis.T).abs().max() for stream in seen) <= 1e-6
    with torch.no_grad(), steering.steer(toy, steering.ablate(direction.spread(residual))):
        torch.testing.assert_close(logits(toy, ids), by_writers, rtol=0, atol=1e-5)
    with torch.no_grad():
        base = logits(toy, ids)
        with steering.bake(toy, writers):
            torch.testing.assert_close(logits(toy, ids), by_writers, rtol=0, atol=1e-5)
        assert torch.equal(logits(toy, ids), base)
    assert (by_writers - base).abs().max() > 0.1


def test_ablating_the_weights_without_the_biases_is_not_ablation(ids, draw):
    model = architectures.build({})
    facts = anatomy(model)
    direction = steering.Direction.from_tensor(draw(24), "L0.resid_pre").spread(steering.writers(facts))
    q = Ablate(draw(1, 24) * 0 + direction.vectors[direction.places[0]][None])
    with torch.no_grad(), steering.steer(model, steering.ablate(direction)):
        wanted = logits(model, ids)
    with torch.no_grad():
        for weight in [
            model.W_E,
            model.W_pos,
            *(b.attn.W_O for b in model.blocks),
            *(b.mlp.W_out for b in model.blocks),
        ]:
            weight.copy_(q(weight))
        assert (logits(model, ids) - wanted).abs().max() > 0.1
        for block in model.blocks:
            block.attn.b_O.copy_(q(block.attn.b_O))
            block.mlp.b_out.copy_(q(block.mlp.b_out))
        torch.testing.assert_close(logits(model, ids), wanted, rtol=0, atol=1e-9)


def _stream(facts, layer):
    from interp.places import Place

    sites = (
        ("resid_pre", "resid_mid", "resid_post")
        if "resid_mid" in facts.sites()
        else ("resid_pre", "resid_post")
    )
    return [Place(site, layer) for site in sites]
