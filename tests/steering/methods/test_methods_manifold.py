"""Steering along a curve: a circle, splines against scipy's, a model whose classes are in order."""

from __future__ import annotations

import math

import pytest
import torch

from interp import steering
from interp.models import logits
from interp.steering import methods

N = 7
ANGLES = torch.arange(N) * 2 * math.pi / N
CIRCLE = 3 * torch.stack((ANGLES.cos(), ANGLES.sin()), 1).double()


@pytest.fixture
def wide(draw):
    """The circle in 24 dimensions, away from 0."""
    axes = torch.linalg.qr(draw(24, 2)).Q.T
    return CIRCLE @ axes + draw(24)


def test_the_curve_keeps_the_radius_where_the_chord_loses_it(wide):
    curve = methods.manifold_of(wide, list("abcdefg"), "L1.resid_pre", periodic=True)
    t = torch.linspace(0, 7, 101).double()
    radius = curve.curve(t).norm(dim=-1)
    assert (radius - 3).abs().max() < 0.03
    middle = curve.chord(0, 3.5, 0.5)
    assert middle.norm() < 0.02  # where no class is
    assert curve.off_manifold(middle) > 2.9
    assert curve.off_manifold(curve.curve(t)).max() < 0.02
    assert curve.explained == pytest.approx(1.0)
    torch.testing.assert_close(curve.curve(7.0), curve.curve(0.0))
    torch.testing.assert_close(curve.curve(t + 7), curve.curve(t))
    torch.testing.assert_close(curve.curve(torch.arange(7)), curve.knots)


def test_an_open_curve_is_the_natural_cubic_spline_and_a_line_stays_one(draw):
    interpolate = pytest.importorskip("scipy.interpolate")
    points = draw(6, 5)
    curve = methods.manifold_of(points, list("abcdef"), "L1.resid_pre", 3)
    theirs = interpolate.CubicSpline(range(6), curve.knots.numpy(), bc_type="natural")
    t = torch.linspace(0, 5, 41).double()
    torch.testing.assert_close(curve.curve(t), torch.tensor(theirs(t.numpy())))
    closed = methods.manifold_of(points, list("abcdef"), "L1.resid_pre", 3, periodic=True)
    around = torch.cat((closed.knots, closed.knots[:1])).numpy()
    theirs = interpolate.CubicSpline(range(7), around, bc_type="periodic")
    t = torch.linspace(0, 6, 41).double()
    torch.testing.assert_close(closed.curve(t), torch.tensor(theirs(t.numpy())))
    line = methods.manifold_of(
        torch.arange(5).double()[:, None] * draw(1, 8), list("abcde"), "L1.resid_pre", 1
    )
    torch.testing.assert_close(line.curve(1.5), line.chord(0, 3, 0.5))
    with pytest.raises(ValueError, match="t runs from 0 to 5"):
        curve.curve(5.5)


def test_steering_replaces_the_part_in_the_components_alone(model, ids):
    classes = {str(i): (ids + 5 * i) % 27 + 3 for i in range(4)}
    curve = methods.manifold(model, classes, 2, layer=1)
    h = steering.activations(model, ids, "L1.resid_pre", "all")
    for made, target in ((curve.steer(1.5), curve.curve(1.5)), (curve.steer(0, 0.5), None)):
        (each,) = made
        moved = each.edit(h)
        rest = torch.eye(h.shape[1]).double() - curve.basis.T @ curve.basis
        torch.testing.assert_close(moved @ rest, h @ rest)
        inside = (moved - curve.centre) @ curve.basis.T
        wanted = (
            target.expand_as(inside)
            if target is not None
            else (0.5 * (h - curve.centre) @ curve.basis.T + 0.5 * curve.curve(0.0))
        )
        torch.testing.assert_close(inside, wanted)
    with torch.no_grad():
        base = logits(model, ids)
        with steering.steer(model, *curve.steer(1.0, 0.0)):
            assert torch.equal(logits(model, ids), base)
    with pytest.raises(ValueError, match="three or more"):
        methods.manifold(model, {"a": ids, "b": ids}, 1, layer=1)


def ring():
    """A model that answers by the angle of two features: word i is read at angle i."""
    import toys

    from interp.models.handmade.sketch import Sketch

    words = [f"day{i}" for i in range(N)]
    sketch = Sketch((*words, "="), ("cos", "sin", "left", "right"), n_ctx=2, n_layers=1, attn_only=True)
    for i, word in enumerate(words):
        angle = 2 * math.pi * i / N
        for feature, value in (("cos", math.cos(angle)), ("sin", math.sin(angle))):
            sketch.embed(word, feature, value)
            sketch.unembed(feature, word, 10 * value)
    return toys.model(sketch), toys.ids(tuple(words), sketch)


def test_the_curve_visits_the_classes_in_order_and_the_chord_jumps():
    model, ids = ring()
    classes = {f"day{i}": torch.tensor([[token]]) for i, token in enumerate(ids)}
    curve = methods.manifold(model, classes, 2, periodic=True, layer=0)
    out = methods.manifold_paths(model, curve, torch.tensor([[ids[0]]]), ids, 0, 3, n=31)
    assert out.attrs["visits_curve"] == "day0 day1 day2 day3"
    assert float(out["off_curve"].max()) < 0.02 < 0.3 < float(out["off_chord"].max())
    half = methods.manifold_paths(model, curve, torch.tensor([[ids[0]]]), ids, 0, 3.5, n=30)
    assert half.attrs["visits_curve"].startswith("day0 day1 day2 day3")
    jumps = half.attrs["visits_chord"].split()  # to the other side, where day 3 and day 4 are as near
    assert set(jumps[1:]) <= {"day3", "day4"}
    assert jumps[0] == "day0"
    assert len(jumps) > 1
    sure = [float(half[name].max("class").min()) for name in ("curve", "chord")]
    assert sure[0] > 2 * sure[1]  # half way along the chord it answers nothing in particular
    with pytest.raises(ValueError, match="one token id for each"):
        methods.manifold_paths(model, curve, torch.tensor([[ids[0]]]), ids[:3], 0, 1)


def test_outputs_follow_their_curve_on_the_manifold_and_leave_it_on_the_chord():
    model, ids = ring()
    classes = {f"day{i}": torch.tensor([[token]]) for i, token in enumerate(ids)}
    curve = methods.manifold(model, classes, 2, periodic=True, layer=0)
    outputs = methods.output_curve(model, classes, ids, periodic=True)
    with torch.no_grad():
        p = logits(model, torch.tensor(ids)[:, None])[:, -1].double().softmax(-1)
    torch.testing.assert_close(outputs.knots[:, :-1], p[:, ids].sqrt())
    torch.testing.assert_close(outputs.knots.norm(dim=1), torch.ones(N).double())
    out = methods.manifold_paths(model, curve, torch.tensor([[ids[0]]]), ids, 0, 3.5, n=15, outputs=outputs)
    assert float(out["away_chord"].max()) > 3 * float(out["away_curve"].max())
    assert float(out["away_curve"][:, 0].max()) < 1e-3  # at a class: what the model says of it

    way = {"prompts": torch.tensor([[ids[0]]]), "answers": ids, "start": 0, "end": 3, "n": 4}
    found = methods.invert_outputs(model, curve, outputs, **way, steps=150)
    assert (found["value"] < 0.01 * found["chord"])[:, 1:3].all()  # at both ends they are one
    assert float(found["value"].max()) < 0.05 < 0.3 < float(found["chord"].max())
    assert float(found["off"].max()) < 0.2 * float(found["off_chord"].max())
    assert abs(found["nearest"] - found["t"]).max() < 0.1
    fewer = methods.output_curve(model, dict(list(classes.items())[:3]), ids[:3])
    with pytest.raises(ValueError, match="outputs is of 3 answers, there are 7"):
        methods.invert_outputs(model, curve, fewer, **way)
    with pytest.raises(ValueError, match="three classes or more"):
        methods.output_curve(model, classes, ids[:3])
