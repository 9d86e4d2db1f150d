"""Interventions folded into weights: the runs of hooks, and exact undo."""

from __future__ import annotations

import pytest
import torch

import interp
from interp import positions, steering
from interp.models import anatomy, logits
from interp.steering import methods

PLACES = (
    "L1.resid_pre",
    "L0.resid_pre",
    "L1.resid_mid",
    "L1.resid_post",
    "L1.attn_out",
    "L1.mlp_out",
    "L1H2",
    "L1.post",
)


def run(model, tokens, *interventions):
    with torch.no_grad(), steering.steer(model, *interventions):
        return logits(model, tokens)


def biased(model) -> bool:
    return getattr(model.blocks[0].attn, "b_O", None) is not None


def width(name: str) -> int:
    return 6 if "H" in name else 40 if name == "L1.post" else 24


def compare(model, ids, interventions, within):
    base, hooked = run(model, ids), run(model, ids, interventions)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with steering.bake(model, interventions):
        torch.testing.assert_close(run(model, ids), hooked, rtol=0, atol=within)
    assert (hooked - base).abs().max() > 1e-3
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert torch.equal(run(model, ids), base)


@pytest.mark.parametrize("name", PLACES)
def test_baked_additions_are_the_hooked_ones(toy, ids, draw, within, name):
    made = steering.add(steering.Direction.from_tensor(draw(width(name)), name), 2.0)
    if not biased(toy) and name != "L0.resid_pre":
        with pytest.raises(ValueError, match="nothing writes a bias"):
            steering.bake(toy, made)
        return
    compare(toy, ids, made, within)


@pytest.mark.parametrize("name", ["L0.resid_pre", "L1.attn_out", "L1.mlp_out", "L1H2", "L1.post"])
def test_baked_ablations_are_the_hooked_ones(toy, ids, draw, within, name):
    d = steering.Direction.from_tensor(draw(2, width(name)), name)
    compare(toy, ids, steering.ablate(d, 0.8), within)


def test_other_affine_edits(toy, ids, draw, within):
    one, two = (steering.Direction.from_tensor(draw(24), "L1.mlp_out") for _ in range(2))
    made = [
        steering.rotate(one, two, 0.8),
        steering.edits.scale_units("L1.z", [0, 2], 0.3),
        steering.edits.scale_units("L0.post", [1, 2], 3.0),
    ]
    compare(toy, ids, made, within)
    if biased(toy):
        more = [
            steering.clamp(one, 1.5),
            steering.edits.affine("L2.attn_out", 1 + 0.1 * draw(24), draw(24), 0.7),
            steering.edits.set_units("L1.z", [0, 2], 0.5),
            steering.edits.set_units("L0.post", [1, 2], 3.0),
        ]
        compare(toy, ids, more, within)


def test_methods_that_scale_units_bake(toy, ids, within):
    """AurA at every neuron, and AUSteer's dimensions of mlp_out and of one head."""
    experts = methods.expert_units(toy, ids[:2], ids[2:], layer=[0, 2])
    compare(toy, ids, experts.damp(0.8), within)
    dims = methods.austeer(toy, ids[:2], ids[2:], ["L1.mlp_out", "L1H2"], k=12)
    assert len(dims.index) == 2
    compare(toy, ids, dims.scale(1.5), within)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edits_are_exact_to_one_rounding(draw, dtype):
    """Two edits of one matrix, as float64 makes them of the weights as they are, then rounded once."""
    model = interp.load("tiny-ioi", dtype=dtype)
    one, two = (steering.Direction.from_tensor(draw(2, 64), "L1.mlp_out") for _ in range(2))
    W, b = (getattr(model.blocks[1].mlp, name).detach().double() for name in ("W_out", "b_out"))
    for d in (one, two):
        q = torch.linalg.qr(d.vectors[d.place].double().T).Q
        W, b = (x - 0.9 * (x @ q) @ q.T for x in (W, b))
    with steering.bake(model, steering.ablate(one, 0.9), steering.ablate(two, 0.9)):
        assert torch.equal(model.blocks[1].mlp.W_out, W.to(dtype))
        assert torch.equal(model.blocks[1].mlp.b_out, b.to(dtype))


def test_baking_twice_and_undoing_in_turn(model, ids, draw):
    base = run(model, ids)
    one = steering.add(steering.Direction.from_tensor(draw(24), "L1.resid_pre"), 2.0)
    two = steering.add(steering.Direction.from_tensor(draw(24), "L1.resid_pre"), -1.0)
    first = steering.bake(model, one)
    kept = run(model, ids)
    second = steering.bake(model, two)
    assert not torch.equal(run(model, ids), kept)
    second.undo()
    assert torch.equal(run(model, ids), kept)
    first.undo()
    first.undo()
    assert torch.equal(run(model, ids), base)


def test_generation_of_a_baked_model_is_that_of_hooks(model, ids, draw):
    made = steering.add(steering.Direction.from_tensor(draw(24), "L1.resid_pre"), 8.0)
    hooked = steering.generate(model, ids, made, max_new_tokens=8)
    with steering.bake(model, made):
        assert torch.equal(steering.generate(model, ids, max_new_tokens=8), hooked)


def test_what_cannot_be_baked(model, ids, draw):
    d = steering.Direction.from_tensor(draw(24), "L1.resid_pre")
    w = steering.Direction.from_tensor(draw(24), "L1.mlp_out")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    good = steering.add(d, 1.0)
    for bad, match in (
        (steering.add(d, 1.0, when=positions.generated), "depends on position"),
        (steering.add(d, 1.0, gate=steering.gates.rows(torch.ones(4))), "gate"),
        (steering.add(d, torch.ones(4)), "row"),
        (steering.ablate(d), "several layers write"),
        (steering.clamp(w, 1.0, bound="min"), "not affine"),
        (
            steering.edits.to_angle(w, steering.Direction.from_tensor(draw(24), "L1.mlp_out"), 1.0),
            "not affine",
        ),
        (steering.add(steering.Direction.from_tensor(draw(6), "L1H2.q")), "no weight writes"),
        (steering.Intervention("L1.mlp_out", lambda h: h), "cannot be baked"),
    ):
        with pytest.raises(ValueError, match=match):
            steering.bake(model, good, bad)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert anatomy(model).n_layers == 3


@pytest.mark.parametrize("family", ["Olmo2", "Mixtral"])
def test_what_cannot_be_baked_says_so(family) -> None:
    """A norm stands behind what an OLMo 2 layer writes; a mixture of experts has several output matrices."""
    import transformers

    from interp.models import _release

    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 32, "num_key_value_heads": 4}
    name = f"{family}ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**sizes, pad_token_id=0, architectures=[name])
    with torch.random.fork_rng(devices=[]), _release.quiet():
        torch.manual_seed(0)
        inner = getattr(transformers, name)(config).eval()
        model = _release.bridge(family, inner, None, {})
    d = steering.Direction.from_tensor(torch.randn(32), "L1.mlp_out")
    before = {key: value.clone() for key, value in model.named_parameters()}
    with pytest.raises(ValueError, match="baked"):
        steering.bake(model, steering.add(d))
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())
