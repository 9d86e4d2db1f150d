"""The context manager: a model is steered inside it, and as found after it."""

from __future__ import annotations

import pytest
import torch

from interp import positions, steering
from interp import sae as dictionaries
from interp.models import logits
from interp.steering._edit_types import Features


def hooks_of(model) -> int:
    """Every hook on every module of the model."""
    inner = getattr(model, "original_model", model)
    modules = {id(m): m for root in (model, inner) for m in root.modules()}.values()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)


def run(model, tokens, *interventions, **options):
    with torch.no_grad(), steering.steer(model, *interventions, **options):
        return logits(model, tokens)


def add(draw, name, coefficient=2.0, **options):
    width = 6 if "H" in name else 40 if "post" in name and "resid" not in name else 24
    return steering.add(steering.Direction.from_tensor(draw(width), name), coefficient, **options)


def test_the_model_is_as_found(toy, ids, draw):
    base, hooks = run(toy, ids), hooks_of(toy)
    weights = {name: parameter.clone() for name, parameter in toy.named_parameters()}
    held = steering.gates.cosine_gate(
        steering.Direction.from_tensor(draw(24), "L0.resid_mid"), 0.0, held="mean"
    )
    several = [add(draw, "L1.resid_pre"), add(draw, "L1H2", when=positions.generated, gate=None)]
    several.append(add(draw, "L2.mlp_out", gate=held))
    with steering.steer(toy, several):
        inside = toy(ids)
        with steering.steer(toy, add(draw, "L1.attn_out")):
            assert not torch.equal(toy(ids), inside)
        assert torch.equal(toy(ids), inside)
        assert hooks_of(toy) > hooks
    assert not torch.equal(inside, base)
    with pytest.raises(RuntimeError, match="mine"), steering.steer(toy, several):
        raise RuntimeError("mine")
    fails = steering.Intervention("L1.resid_pre", lambda h: h @ torch.zeros(3, 3))
    with pytest.raises(RuntimeError), steering.steer(toy, several, fails):
        toy(ids)
    assert hooks_of(toy) == hooks
    assert torch.equal(run(toy, ids), base)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in toy.named_parameters())
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_hooks_of_the_user_stay(model, ids, draw):
    seen = []
    model.add_hook("blocks.1.hook_resid_pre", lambda tensor, hook: seen.append(1))
    try:
        run(model, ids, add(draw, "L1.resid_pre"))
        assert len(seen) == 1
        model(ids)
        assert len(seen) == 2
    finally:
        model.reset_hooks()


@pytest.mark.parametrize(
    "site",
    [
        "L1.resid_pre",
        "L1.resid_mid",
        "L1.resid_post",
        "L1.attn_out",
        "L1.mlp_out",
        "L1H2",
        "L1.post",
        "L1H1.q",
    ],
)
def test_every_site_is_steered_without_changing_a_tensor_in_place(toy, ids, draw, site):
    base = run(toy, ids)
    seen = []

    def edit(h):
        seen.append((h, h.clone()))
        return (
            h + 1.0 + (torch.arange(h.shape[-1]) == 0)
        )  # a norm would take out the same on every coordinate

    steered = run(toy, ids, steering.Intervention(site, edit))
    assert (steered - base).abs().max() > 1e-4
    h, before = seen[0]
    assert torch.equal(h, before)
    assert torch.equal(run(toy, ids, add(draw, site, 0.0)), base)


def test_no_ops_are_bit_identical(toy, ids, draw):
    base = run(toy, ids)
    one, two = (steering.Direction.from_tensor(draw(24), "L1.resid_pre") for _ in range(2))
    d = dictionaries.Dictionary(draw(24, 9), draw(9), draw(9, 24), draw(24), place="L1.resid_pre")
    sae = steering.edits.features(d, lambda f: f.clone())
    nothing = {
        "add": steering.add(one, 0.0),
        "ablate": steering.ablate(one, 0.0),
        "rotate": steering.rotate(one, two, 0.0),
        "affine": steering.edits.affine("L1.mlp_out", draw(24), draw(24), 0.0),
        "scale": steering.edits.scale_units("L1.post", [3, 5], 1.0),
        "attention": steering.edits.score_bias(1, positions.window(0, 2), 1.0),
        "sae": sae,
        "gradient": steering.edits.gradient("L1.resid_pre", lambda h: h.square().sum(-1), 0.0),
        "nowhere": steering.add(one, 5.0, when=positions.mask(torch.zeros(ids.shape, dtype=torch.bool))),
        "closed": steering.add(one, 5.0, gate=steering.gates.rows(torch.zeros(4, dtype=torch.bool))),
    }
    for name, interventions in nothing.items():
        assert torch.equal(run(toy, ids, interventions), base), name


def test_vectors_by_row_are_separate_runs(toy, ids, draw, within):
    directions = [steering.Direction.from_tensor(draw(24), "L1.resid_pre") for _ in range(4)]
    by_row = run(toy, ids, steering.add(directions, 2.0))
    coefficients = torch.tensor([0.0, 1.0, -2.0, 4.0])
    scaled = run(toy, ids, steering.add(directions[0], coefficients))
    for row in range(4):
        alone = run(toy, ids[row : row + 1], steering.add(directions[row], 2.0))
        torch.testing.assert_close(by_row[row : row + 1], alone, rtol=0, atol=within)
        alone = run(toy, ids[row : row + 1], steering.add(directions[0], coefficients[row].item()))
        torch.testing.assert_close(scaled[row : row + 1], alone, rtol=0, atol=within)
    with pytest.raises(ValueError, match="4 rows, the batch has 2"):
        run(toy, ids[:2], steering.add(directions, 2.0))


def test_a_head_at_z_is_its_write_at_attn_out(toy, ids, draw, within):
    vector = draw(6)
    write = vector @ toy.blocks[1].attn.W_O[2].detach()
    at_z = run(toy, ids, steering.add(steering.Direction.from_tensor(vector, "L1H2"), 3.0))
    at_out = run(toy, ids, steering.add(steering.Direction.from_tensor(write, "L1.attn_out"), 3.0))
    torch.testing.assert_close(at_z, at_out, rtol=0, atol=within)
    assert (at_z - run(toy, ids)).abs().max() > 0.01


def test_several_heads_are_each_head_in_turn(model, ids):
    both = steering.edits.scale_units("L1.z", [0, 3], 0.0)
    one, other = steering.edits.scale_units("L1H0", None, 0.0), steering.edits.scale_units("L1H3", None, 0.0)
    torch.testing.assert_close(run(model, ids, both), run(model, ids, one, other), rtol=0, atol=1e-12)
    set_to = steering.edits.set_units("L1.z", [0, 3], 0.0)
    torch.testing.assert_close(run(model, ids, both), run(model, ids, set_to), rtol=0, atol=1e-12)
    assert not torch.equal(run(model, ids, both), run(model, ids))


def test_log_of_the_factor_multiplies_attention(toy, ids, within):
    """exp(s + log M) = M exp(s): the pattern is the old one with M on the sources, normalised again."""
    name, patterns = "blocks.1.attn.hook_pattern", []
    keep = [(name, lambda tensor, hook: patterns.append(tensor.clone()))]
    for interventions in ((), steering.edits.score_bias(1, positions.window(1, 3), 4.0)):
        with torch.no_grad(), steering.steer(toy, interventions):
            toy.run_with_hooks(ids, fwd_hooks=keep)
    factor = torch.ones(ids.shape[1], dtype=torch.float64)
    factor[1:3] = 4.0
    wanted = patterns[0] * factor
    torch.testing.assert_close(patterns[1], wanted / wanted.sum(-1, keepdim=True), rtol=0, atol=within)
    assert (patterns[1] - patterns[0]).abs().max() > 1e-3


def test_attention_from_cached_positions_is_raised_too(model, ids):
    bias = steering.edits.score_bias(1, positions.window(1, 3), 8.0)
    cached, whole = (
        steering.generate(model, ids, bias, max_new_tokens=8, use_cache=use, engine="reference")
        for use in (True, False)
    )
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, steering.generate(model, ids, max_new_tokens=8))


def test_latents_are_edited_with_the_brackets(draw):
    """h + (z' − z) W_dec keeps the reconstruction error; h + z' − z W_dec, or decode(z'), would not."""
    d, h = dictionaries.Dictionary(draw(24, 9), draw(9), draw(9, 24), draw(24)), draw(2, 5, 24)
    edit = Features(d, lambda f: f + torch.eye(9, dtype=f.dtype)[4])
    torch.testing.assert_close(edit(h), h + d.W_dec[4].to(h), rtol=0, atol=1e-7)


def test_the_position_by_position_difference_turns_one_prompt_into_another(toy, ids, within):
    """Injecting prompt A − prompt B at resid_pre, coefficient 1, while running B, gives the run of A."""
    pair = steering.methods.prompt_pair(toy, ids[0], ids[1], layer=1)
    got = run(toy, ids[1:2], steering.edits.inject(pair, 1.0))
    torch.testing.assert_close(got, run(toy, ids[0:1]), rtol=0, atol=within)
    later = run(toy, ids[1:2], steering.edits.inject(pair, 1.0, start=4))
    torch.testing.assert_close(later[:, :4], run(toy, ids[1:2])[:, :4], rtol=0, atol=within)


def test_where_is_an_algebra(model, ids, draw):
    """Positions by & | ~ are those of the masks."""
    vector = draw(24)

    def change(when):
        seen = []

        def edit(h):
            return h + vector

        keep = [("blocks.1.hook_resid_pre", lambda tensor, hook: seen.append(tensor.clone()))]
        with torch.no_grad(), steering.steer(model, steering.Intervention("L1.resid_pre", edit, when)):
            model.run_with_hooks(ids, fwd_hooks=keep)
        with torch.no_grad():
            model.run_with_hooks(ids, fwd_hooks=keep)
        return (seen[0] - seen[1]).abs().amax(-1) > 1e-9

    a, b = positions.window(1, 5), positions.at(0, 2, -1)
    assert change(a)[0].tolist() == [False, True, True, True, True, False]
    assert change(b)[0].tolist() == [True, False, True, False, False, True]
    assert torch.equal(change(a & b), change(a) & change(b))
    assert torch.equal(change(a | b), change(a) | change(b))
    assert torch.equal(change(~a), ~change(a))
    token = int(ids[0, 3])
    assert torch.equal(change(positions.tokens(token)), ids == token)
    marks = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(change(positions.mask(marks)), marks)


def test_half_precision(ids, draw):
    import architectures

    half = architectures.build({"dtype": torch.bfloat16})
    direction = steering.Direction.from_tensor(draw(24).float(), "L1.resid_pre")
    seen = []
    with torch.no_grad(), steering.steer(half, steering.ablate(direction)):
        keep = [("blocks.1.hook_resid_pre", lambda tensor, hook: seen.append(tensor.clone()))]
        out = half.run_with_hooks(ids, fwd_hooks=keep)
    assert out.dtype == torch.bfloat16
    after = direction.project(seen[0].float()).abs().max()
    before = direction.project(steering.activations(half, ids, "L1.resid_pre", "all")).abs().max()
    assert after < 0.02 * before
    assert torch.equal(run(half, ids, steering.add(direction, 0.0)), run(half, ids))


def test_a_user_s_own_cached_loop_is_followed(model, ids, draw):
    """steer reads the cache's length itself: the same logits as without a cache."""
    from interp.steering._generate import Decoder

    made = add(draw, "L1.resid_pre", when=positions.at(7))
    with torch.no_grad(), steering.steer(model, made):
        decoder = Decoder(model, ids, torch.ones_like(ids, dtype=torch.bool), True)
        for column in range(3):
            cached = decoder.logits()
            decoder.append(ids[:, column])
    whole = run(model, torch.cat((ids, ids[:, :2]), 1), made)[:, -1]
    torch.testing.assert_close(cached, whole, rtol=0, atol=1e-9)
