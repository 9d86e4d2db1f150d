"""Weight edits: planted parts are found, closed forms are met, undo is exact, bad weights are refused."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch
import two_sides

from interp import steering
from interp.models import logits
from interp.places import parse
from interp.steering import methods


def state(model):
    return {name: value.clone() for name, value in model.named_parameters()}


def run(model, ids):
    with torch.no_grad():
        return logits(model, ids)


def test_undo_puts_the_bits_back_and_nothing_is_changed_by_an_empty_edit(model, ids, draw):
    before, base = state(model), run(model, ids)
    edits = methods.WeightEdits({parse("L1H2"): draw(6, 24), parse("L0.mlp_out"): draw(40, 24)})
    with edits.apply(model):
        assert (run(model, ids) - base).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    with (0 * edits).apply(model):
        assert torch.equal(run(model, ids), base)
    assert torch.equal(run(model, ids), base)


def test_an_edit_of_a_head_is_a_steered_run(model, ids, draw):
    """z + z E with E W_O the change: the same edit, made at the head's own site under hooks."""
    where, change = parse("L1H2"), draw(6, 24)
    W = model.blocks[1].attn.W_O[2].detach()
    E = change @ torch.linalg.pinv(W)
    change = E @ W  # what an edit of z can do

    def edit(z, hook):
        return torch.cat([z[:, :, :2], z[:, :, 2:3] + z[:, :, 2:3] @ E, z[:, :, 3:]], 2)

    hook = [("blocks.1.attn.hook_z", edit)]
    with torch.no_grad(), model.hooks(fwd_hooks=hook):
        hooked = logits(model, ids)
    assert (hooked - run(model, ids)).abs().max() > 1e-2
    with methods.WeightEdits({where: change}).apply(model):
        torch.testing.assert_close(run(model, ids), hooked, rtol=0, atol=1e-9)


@pytest.fixture
def planted(ids):
    """A model with head L1H2 made to write v, whatever it reads; and v."""
    model = small.own()
    v = torch.randn(24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    v /= v.norm()
    z = steering.activations(model, ids, parse("L1H2"), agg="mean")
    with torch.no_grad():
        noise = model.blocks[1].attn.W_O[2] * 0.02
        model.blocks[1].attn.W_O[2].copy_(noise + torch.outer(z / z.norm(), v))
    return model, v


def test_steer2edit_finds_the_planted_head_and_edits_it_alone(planted, ids):
    model, v = planted
    d = steering.Direction.from_tensor(5 * v, "L1.resid_post")
    edits = methods.steer2edit(model, d, ids[:2], ids[2:], rho=0.9, alpha=0.95)
    g = edits.scores["heads"]
    assert g[1, 2] > 0.9
    assert g.flatten().abs().sort().values[-2] < 0.855
    assert [where for where in edits.changes if where.head is not None] == [parse("L1H2")]
    for change in edits.changes.values():
        assert torch.linalg.matrix_rank(change) == 1
        assert (change - change @ torch.outer(v, v)).abs().max() < 1e-12
    expected = (g[1, 2] - 0.9 * 0.95) / (0.9 * 0.05)
    torch.testing.assert_close(edits.changes[parse("L1H2")].norm(), expected)


def test_steer2edit_pushes_along_v_and_by_the_formula_for_neurons(model, ids, draw):
    v = draw(24)
    v /= v.norm()
    up, down = ids[:2], ids[2:]
    d, there = steering.Direction.from_tensor(v, "L1.resid_post"), ("L0.attn_out", "L0.mlp_out")
    edits = methods.steer2edit(model, d, up, down, rho=0.2, alpha=0.5)
    x = steering.activations(model, ids, "L1.post", agg="mean")
    W = model.blocks[1].mlp.W_out.detach()
    for neuron in (0, 7, 23):
        g = torch.cosine_similarity(x[neuron] * W[neuron], v, dim=0)
        torch.testing.assert_close(edits.scores["neurons"][1, neuron], g)
        size = max(abs(g) - 0.1, 0) / 0.1
        torch.testing.assert_close(
            edits.changes[parse("L1.mlp_out")][neuron], size * g.sign() * (W[neuron] @ v).sign() * v
        )
    before = steering.activations(model, ids, there, agg="mean")
    with edits.apply(model):
        after = steering.activations(model, ids, there, agg="mean")
    first = next(iter(before))
    assert (after[first] - before[first]) @ v > 0.01
    assert len(methods.steer2edit(model, d, up, down, rho=4.0, alpha=0.5)) == 0


def test_stamp_redirects_what_is_to_be_forgotten_and_keeps_the_rest(model, ids, draw):
    target, fresh = draw(24), torch.randint(3, 20, (6, 6), generator=torch.Generator().manual_seed(1))
    old = {
        name: steering.activations(model, rows, "L1.mlp_out") for name, rows in zip("rf", (ids[2:], fresh))
    }
    edits = methods.redirect(model, 1, ids[:2], target, ids[2:])
    with edits.apply(model):
        new = [steering.activations(model, rows, "L1.mlp_out") for rows in (ids[:2], ids[2:], fresh)]
    torch.testing.assert_close(new[0], target.expand(2, -1), rtol=0, atol=1e-8)
    torch.testing.assert_close(new[1], old["r"], rtol=0, atol=1e-8)
    assert max(edits.errors.values()) < 1e-8
    # the delta form moves other prompts less than the plain pseudo-inverse X^+ Y, which forgets W
    X = steering.activations(model, ids, "L1.post")
    bias = getattr(model.blocks[1].mlp, "b_out", torch.zeros(24)).detach()
    Y = torch.cat([target.expand(2, -1) - bias, X[2:] @ model.blocks[1].mlp.W_out.detach()])
    plain = steering.activations(model, fresh, "L1.post") @ (torch.linalg.pinv(X) @ Y) + bias
    assert (new[2] - old["f"]).norm() < (plain - old["f"]).norm()


def test_stamp_of_low_rank(model, ids, draw):
    edits = methods.redirect(model, 1, ids[:2], draw(24), ids[2:], rank=1)
    (change,) = edits.changes.values()
    assert torch.linalg.matrix_rank(change) == 1
    assert 0 < edits.errors["forget"] < 1


def test_rome_links_with_the_least_change_on_the_text(model, ids, draw):
    value = draw(24)
    edits = methods.link(model, 1, ids[:1], value, ids[1:])
    (change,) = edits.changes.values()
    with edits.apply(model):
        got = steering.activations(model, ids[:1], "L1.mlp_out")[0]
    torch.testing.assert_close(got, value, rtol=0, atol=1e-8)
    keys = steering.activations(model, ids[1:], "L1.post", "all")
    C = keys.T @ keys / len(keys)
    C += 1e-4 * C.diagonal().mean() * torch.eye(len(C))
    key = steering.activations(model, ids[:1], "L1.post")[0]
    size = torch.trace(change.T @ C @ change)
    away = draw(40, 24)
    away -= torch.outer(key, key @ away) / (key @ key)  # any other W that makes the link
    for step in (1e-3, -1e-3):
        other = change + step * away
        assert torch.trace(other.T @ C @ other) > size
    plain = torch.outer(key, key @ change) / (key @ key)  # the same link with C = 1
    assert (keys @ change).norm() < 0.9 * (keys @ plain).norm()


def test_bad_input_is_a_sentence_before_any_pass(model, ids, draw, monkeypatch):
    d = steering.Direction.from_tensor(draw(24), "L1.resid_post")
    with pytest.raises(ValueError, match="rho is 0"):
        methods.steer2edit(model, d, ids[:2], ids[2:], rho=0)
    with pytest.raises(ValueError, match="alpha is 1"):
        methods.steer2edit(model, d, ids[:2], ids[2:], alpha=1.0)
    narrow = steering.Direction.from_tensor(draw(6), "L1H2")
    with pytest.raises(ValueError, match=r"the direction at L1H2 is \[6\]; give one \[24\]"):
        methods.steer2edit(model, narrow, ids[:2], ids[2:])
    with pytest.raises(ValueError, match=r"target is \[7\]"):
        methods.redirect(model, 1, ids[:2], draw(7), ids[2:])
    with pytest.raises(ValueError, match="rank is 0"):
        methods.redirect(model, 1, ids[:2], draw(24), ids[2:], rank=0)
    with pytest.raises(ValueError, match="ridge is 0"):
        methods.link(model, 1, ids[:1], draw(24), ids[1:], ridge=0.0)
    with pytest.raises(ValueError, match="made for another model"):
        methods.WeightEdits({parse("L1.mlp_out"): draw(3, 24)}).apply(model)


def test_edits_are_not_taken_to_another_model(model, ids, draw):
    other = small.own()
    with torch.no_grad():
        other.W_U.neg_()
    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    with (
        two_sides.no_pass(other),
        pytest.raises(ValueError, match="the direction was found on another model"),
    ):
        methods.steer2edit(other, d, ids[:2], ids[2:])
    for edits in (
        methods.steer2edit(model, d, ids[:2], ids[2:]),
        2 * methods.redirect(model, 1, ids[:2], draw(24), ids[2:]),
        methods.link(model, 1, ids[:1], draw(24), ids[1:]),
    ):
        before = state(other)
        with pytest.raises(ValueError, match=r"another model .*replace\(edits, found=\{\}\)"):
            edits.apply(other)
        assert all(torch.equal(value, before[name]) for name, value in other.named_parameters())
        with dataclasses.replace(edits, found={}).apply(other):
            assert any(not torch.equal(value, before[name]) for name, value in other.named_parameters())


def test_a_weight_of_two_layers_is_refused(draw):
    model = small.model()
    if not hasattr(model.blocks[0].mlp, "_parameters") or "W_out" not in model.blocks[0].mlp._parameters:
        pytest.skip("a bridge, whose W_out is a view of the original's")
    model.blocks[1].mlp.W_out = model.blocks[0].mlp.W_out
    edits = methods.WeightEdits({parse("L0.mlp_out"): draw(40, 24)})
    with pytest.raises(ValueError, match="layers 0 and 1 share the weight"):
        edits.apply(model)
