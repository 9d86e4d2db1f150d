"""K-steering: the gradient of one classifier of several labels; a linear one gives a difference of rows."""

from __future__ import annotations

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.steering import methods

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classes():
    """Prompts of three labels that differ in their last token, and in nothing else."""
    drawn = torch.randint(3, 30, (3, 12, 5), generator=torch.Generator().manual_seed(1))
    for i in range(3):
        drawn[i, :, -1] = 4 + i
    return dict(zip(LABELS, drawn))


def test_a_linear_classifier_steers_along_a_difference_of_rows(model, classes, draw):
    found = methods.k_steering(model, classes, layer=0, hidden=0, steps=60)
    assert (found.accuracy, found.labels) == (1.0, LABELS)
    assert found.shuffled < 0.8
    rows = found.parameters["out"].T / found.scale
    h = draw(2, 3, rows.shape[1])
    (each,) = found.steer("red", avoid=("green", "blue"), alpha=0.5, steps=3, decay=0.5)
    wanted = h + 0.5 * (1 + 0.5 + 0.25) * (rows[0] - (rows[1] + rows[2]) / 2)
    torch.testing.assert_close(each.edit(h), wanted)
    by_hand = torch.autograd.functional.jacobian(lambda x: found.scores(x)[1], h[0, 0])
    torch.testing.assert_close(by_hand, rows[1])


def test_a_hidden_layer_steers_by_where_the_activations_are(model, classes):
    """Labels in opposite corners of a square: no line tells them apart, and the step differs by corner."""
    found = methods.k_steering(model, classes, layer=1, hidden=16, steps=100)
    rows = torch.cat(list(classes.values()))
    h = steering.activations(model, rows, "L1.resid_pre").double()
    before = found.scores(h).softmax(-1)
    (each,) = found.steer("blue", avoid=("red", "green"), alpha=0.2, steps=10)
    moved = each.edit(h)
    after = found.scores(moved).softmax(-1)
    assert (after[:, 2] > before[:, 2]).all()
    steps = moved - h
    alike = torch.nn.functional.cosine_similarity(steps[0], steps[-1], dim=0)
    assert alike < 0.999
    with torch.no_grad():
        base = logits(model, rows)
        with steering.steer(model, *found.steer("blue", alpha=0.0)):
            assert torch.equal(logits(model, rows), base)
        with steering.steer(model, *found.steer("blue", alpha=0.5)):
            assert not torch.allclose(logits(model, rows), base)


def test_a_text_of_two_labels_has_both(model, classes):
    both = {**classes, "warm": classes["red"]}
    found = methods.k_steering(model, both, layer=0, hidden=0, steps=60)
    h = steering.activations(model, classes["red"], "L0.resid_pre").double()
    scores = found.scores(h)
    assert (scores[:, [0, 3]] > 0).all()
    assert (scores[:, [1, 2]] < 0).all()


def test_what_cannot_be_is_a_sentence(model, classes):
    found = methods.k_steering(model, classes, layer=0, hidden=0, steps=2)
    with pytest.raises(ValueError, match="two labels or more"):
        methods.k_steering(model, {"red": classes["red"]}, layer=0)
    with pytest.raises(ValueError, match=r"\['few'\] of them with fewer than 4 prompts"):
        methods.k_steering(model, {**classes, "few": classes["red"][:3]}, layer=0)
    with pytest.raises(ValueError, match="target has 'rad'"):
        found.steer("rad")
    for bad in ({"avoid": "red"}, {"steps": 0}, {"decay": 0.0}):
        with pytest.raises(ValueError, match="none of them twice"):
            found.steer("red", **bad)
