"""Control vectors, and KL, entropy and accuracy over their coefficient."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch
import two_sides as sides

import interp
from interp import steering, tasks
from interp.models import final_norm, logits
from interp.steering import Direction, methods


def test_the_three_vectors_are_those_of_the_formulas(toy, ids):
    up, down = (steering.activations(toy, rows, "L1.resid_pre") for rows in (ids[:2], ids[2:]))
    make = lambda kind, *data: methods.control_vector(toy, *data, kind=kind, layer=1)  # noqa: E731
    reading = make("reading", ids[:2])
    contrast, pca = make("contrast", ids[:2], ids[2:]), make("pca", ids[:2], ids[2:])
    torch.testing.assert_close(reading.vector, up.mean(0))
    torch.testing.assert_close(contrast.vector, (up - down).mean(0))
    torch.testing.assert_close(contrast.vector, reading.vector - make("reading", ids[2:]).vector)
    first = torch.linalg.eigh((up - down).double().T @ (up - down).double())[1][:, -1]  # of the second moment
    assert abs(torch.nn.functional.cosine_similarity(pca.vector.double(), first, dim=0)) == pytest.approx(
        1, abs=1e-4
    )
    assert pca.vector @ contrast.vector > 0
    assert not reading.shuffled
    assert contrast.shuffled


def test_where_all_pairs_differ_alike_pca_is_the_contrast(model, ids):
    up, down = ids.clone(), ids.clone()
    up[:, -1], down[:, -1] = 7, 9
    one, two = (methods.control_vector(model, up, down, kind=kind, layer=0) for kind in ("contrast", "pca"))
    torch.testing.assert_close(one.vector, two.vector)
    torch.testing.assert_close(one.vector, (model.W_E[7] - model.W_E[9]).detach())


def test_curves_are_those_of_steered_runs_and_nothing_at_zero(toy, ids):
    d = methods.control_vector(toy, ids[:2], ids[2:], layer=1)
    found = methods.effect_curves(toy, d, ids, [-1.5, 0.0, 1.5], answer=ids[:, 0])
    assert found["kl"].values[:, 0, 1].max() < 1e-6
    assert found["kl"].values[:, 0, [0, 2]].min() > 1e-4
    with torch.no_grad():
        base = logits(toy, ids)[:, -1].double().log_softmax(-1)
        with steering.steer(toy, steering.add(d, 1.5)):
            p = logits(toy, ids)[:, -1].double().log_softmax(-1)
    kl, entropy = (base.exp() * (base - p)).sum(-1), -(p.exp() * p).sum(-1)
    np.testing.assert_allclose(found["kl"].values[:, 0, 2], kl.numpy(), rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(found["entropy"].values[:, 0, 2], entropy.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(found["right"].values[:, 0, 2], (p.argmax(-1) == ids[:, 0]).numpy())
    np.testing.assert_allclose(found["entropy_random"].values[:, 0, 1], found["entropy"].values[:, 0, 1])


def test_far_along_a_tokens_direction_without_a_norm_nothing_else_is_left():
    """Logits grow without bound: the entropy goes to 0, and the token of the largest growth is certain."""
    model = architectures.build({"normalization_type": None})
    ids = torch.randint(3, 30, (4, 6), generator=torch.Generator().manual_seed(8))
    d = Direction.from_tensor(model.W_U[:, 11].detach(), "L2.resid_post")
    top = int(d.lens(model).argmax())
    found = methods.effect_curves(model, d, ids, [0, 1, 10, 1000], answer=torch.full((4,), top)).mean(
        "prompt"
    )
    entropy = found["entropy"].values[0]
    assert (np.diff(entropy) < 0).all()
    assert entropy[0] > 0.1
    assert entropy[-1] < 1e-9
    assert (np.diff(found["kl"].values[0]) > 0).all()
    assert float(found["right"][0, -1]) == 1


def test_far_along_a_direction_with_a_norm_the_distribution_is_that_of_the_direction(model, ids, draw):
    """The norm makes the stream as long as ever: softmax(norm(u) W_U + b_U), whatever the prompt."""
    u = draw(24)
    found = methods.effect_curves(model, Direction.from_tensor(u, "L2.resid_post"), ids, [1e7])
    b_U = getattr(model, "b_U", None)
    log = (final_norm(model)(u) @ model.W_U + (0 if b_U is None else b_U)).detach().log_softmax(-1)
    np.testing.assert_allclose(found["entropy"].values[:, 0, 0], -(log.exp() * log).sum().item(), rtol=1e-4)


def test_on_reviews_accuracy_rises_with_the_sign_of_the_coefficient():
    """Reviews that began badly, asked for praise: 0 right unsteered, all at 3, none with a random vector."""
    world = interp.load("tiny-world")
    up = sides.sides(world, tasks.sentiment(world, n=48, seed=0, held_out=False), "wonderful")[0]
    task = sides.exchanged(sides.sides(world, tasks.sentiment(world, n=24, seed=1), "terrible")[0])
    for kind in ("contrast", "pca"):
        d = methods.control_vector(world, up, up.swap(), kind=kind, layer=3)
        found = methods.effect_curves(world, d, task, [-3, -1, 0, 1, 3]).mean("prompt").isel(layer=0)
        assert found["right"].values.tolist()[:3] == [0, 0, 0]
        assert found["right"].values[4] == 1
        assert found["right_random"].values.max() == 0
        kl = found["kl"].values
        assert kl[0] > kl[1] > kl[2] == pytest.approx(0, abs=1e-6)
        assert kl[2] < kl[3] < kl[4]


def test_bad_input_before_any_pass(model, ids, draw):
    make = methods.control_vector
    d = Direction.from_tensor(draw(24), "L1.resid_pre")
    other = Direction.from_tensor(draw(24), "L1.resid_pre", model="another")
    sides.refused(
        model,
        [
            (lambda: make(model, ids, ids, kind="mean"), "kind is 'mean'"),
            (lambda: make(model, ids, kind="contrast"), "needs negative prompts too"),
            (lambda: make(model, ids, ids, kind="reading"), "takes positive prompts alone"),
            (lambda: make(model, ids[:3], ids[3:]), "3 positive and 1 negative"),
            (lambda: make(model, ids[:3], ids[3:], kind="pca"), "3 positive and 1 negative"),
            (lambda: make(model, ids, kind="reading", pos="all"), "one row a prompt"),
            (lambda: make(model, ids, kind="reading", layer=4), "layer 4 is out of range"),
            (lambda: methods.effect_curves(model, d, ids, []), "coefficients is empty"),
            (lambda: methods.effect_curves(model, d, ids, [float("nan")]), "must be finite"),
            (lambda: methods.effect_curves(model, other, ids, [1]), "found on model 'another'"),
        ],
    )
