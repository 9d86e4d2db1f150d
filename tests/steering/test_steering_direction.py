"""Directions as vectors, and their files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interp import steering
from interp.places import parse
from interp.steering import Direction, gates, methods
from interp.steering._files import read_gguf


def test_directions_are_vectors(draw):
    a, b = draw(24), draw(24)
    one, two = Direction.from_tensor(a, "L1.resid_pre"), Direction.from_tensor(b, layer=1)
    assert torch.equal((one + two).vector, a + b)
    assert torch.equal((one - two).vector, a - b)
    assert torch.equal((2 * one / 4).vector, a / 2)
    assert torch.equal((-one).vector, -a)
    assert one.unit().vector.norm().item() == pytest.approx(1)
    torch.testing.assert_close(one.project(b[None]), (b @ a / a.norm())[None])
    assert one.cosine(two).item() == pytest.approx((a @ b / a.norm() / b.norm()).item())
    both = one + Direction.from_tensor(b, "L2.resid_pre")
    assert [d.layer for d in both.split()] == [1, 2]
    assert torch.equal(both.at("L2.resid_pre").vector, b)


def test_it_is_shown_in_a_line_by_places_widths_lengths_and_norms(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    assert repr(d) == (
        f"Direction(mean_difference on {d.model} at last: L1.resid_pre [24], length {d.vector.norm():.3g}, "
        f"norm there {d.norms[d.place]:.3g})"
    )
    assert repr(Direction.from_tensor(torch.ones(2, 16), "L1.resid_pre")) == (
        "Direction(given: L1.resid_pre [2, 16], basis)"
    )
    many = Direction.from_tensor(torch.ones(16), "L0.resid_pre").spread(
        [parse(f"L{layer}.resid_pre") for layer in range(12)]
    )
    assert repr(many).endswith("L3.resid_pre [16], length 4; ... 8 more)")


def test_what_holds_tensors_is_shown_by_their_shapes(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    skills = methods.native_skills(model, ids, 2, layer=1, pos="last")
    shown = [
        steering.add(d, 4.0),
        steering.ablate(d, gate=gates.cosine_gate(d, 0.2)),
        skills,
        skills.directions,
    ]
    shown += [methods.linear_act(model, ids[:2], ids[2:], "L1.resid_post", pos="last"), d.split()]
    for each in shown:
        assert "tensor(" not in repr(each)
        assert "Place(" not in repr(each)
        assert len(repr(each)) < 700
    assert "edit=Add(vector=[24], coefficient=4)" in repr(shown[0])


def test_a_direction_is_frozen_and_keeps_its_own_copy(draw):
    a = draw(24)
    d = Direction.from_tensor(a, "L1.resid_pre")
    a.zero_()
    assert d.vector.norm() > 1
    with pytest.raises(AttributeError):
        d.model = "other"


def test_the_sign_turns_the_class_means(model, ids):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    high, low = (-d).means[d.place]
    assert (high, low) == tuple(-x for x in d.means[d.place])


def test_saved_and_loaded_it_is_the_same(model, ids, tmp_path):
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=[1, 2])
    d = d + Direction.from_tensor(torch.ones(6, dtype=torch.float64), "L1H2")
    d = replace(d, shuffled={w: v * 2 for w, v in d.vectors.items()})
    got = Direction.load(d.save(tmp_path / "d.safetensors"), model)
    assert set(got.places) == set(d.places)
    for where in d.places:
        assert torch.equal(got.vectors[where], d.vectors[where])
        assert torch.equal(got.shuffled[where], d.shuffled[where])
    for name in ("norms", "means", "model", "method", "positions", "data", "seed", "layout"):
        assert getattr(got, name) == getattr(d, name)
    made = steering.add(got.at("L1.resid_pre"), 3.0)
    with torch.no_grad(), steering.steer(model, made):
        loaded = model(ids)
    with torch.no_grad(), steering.steer(model, steering.add(d.at("L1.resid_pre"), 3.0)):
        assert torch.equal(model(ids), loaded)


def test_a_wrong_file_model_site_or_width_is_an_error(model, tmp_path, draw):
    with pytest.raises(ValueError, match="there is no file"):
        Direction.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="damaged"):
        Direction.load(tmp_path / "bad.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="has format None"):
        Direction.load(tmp_path / "other.safetensors")
    for vector, name, of, match in (
        (draw(24), "L1.resid_pre", "another", "found on model 'another'"),
        (draw(25), "L1.resid_pre", None, "width 25"),
        (draw(24), "L9.resid_pre", None, "out of range"),
    ):
        path = Direction.from_tensor(vector, name, model=of).save(tmp_path / "d.safetensors")
        with pytest.raises(ValueError, match=match):
            Direction.load(path, model)


def test_control_vectors_for_llama_cpp(tmp_path, draw):
    a, b = draw(24), draw(24)
    d = Direction.from_tensor(a, "L2.resid_pre", model="m") + Direction.from_tensor(
        b, "L3.resid_post", model="m"
    )
    path = d.to_gguf(tmp_path / "d.gguf")
    found = read_gguf(path)
    assert set(found) == {1, 3}
    torch.testing.assert_close(torch.from_numpy(found[1].copy()), a.float())
    torch.testing.assert_close(torch.from_numpy(found[3].copy()), b.float())
    raw = path.read_bytes()
    assert raw[:8] == b"GGUF\x03\x00\x00\x00"
    assert raw.index(b"controlvector") < raw.index(b"direction.1") < raw.index(b"direction.3")
    assert raw.endswith(b.float().numpy().tobytes())  # 24 floats fill three blocks of 32 bytes
    with pytest.raises(ValueError, match="from layer 1 on"):
        Direction.from_tensor(a, "L0.resid_pre").to_gguf(path)


def test_the_lens_is_the_slope_of_the_logits(toy, draw):
    """At a stream orthogonal to the direction, the logits move by the lens over the norm's scale."""
    d = Direction.from_tensor(draw(24), "L2.resid_post").unit()
    lens = d.lens(toy)
    centred = lens - lens.mean()
    x = draw(24) * 3
    x = (x - x.mean()) if toy.cfg.normalization_type in ("LN", "LNPre") else x
    v = d.vector
    inner = v - v.mean() if toy.cfg.normalization_type in ("LN", "LNPre") else v
    x = x - (x @ inner) / (inner @ inner) * inner

    def out(stream):
        y = stream[None, None]
        y = y if toy.cfg.normalization_type is None else toy.ln_final(y)
        return toy.unembed(y)[0, 0]

    with torch.no_grad():
        slope = (out(x + 1e-4 * v) - out(x - 1e-4 * v)) / 2e-4
    slope = slope - slope.mean()
    ratio = (slope @ centred) / (centred @ centred)
    assert ratio > 0
    assert torch.cosine_similarity(slope, centred, dim=0).item() > 1 - 1e-4
