"""Direct logit attribution: shares that add up, through the final norm frozen at its value."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from cases import task
from estimates import covering, model_of

import interp
from interp.attribution import direct, gradients
from interp.methods import Rules
from interp.models import anatomy, logits

ONLY_LN = Rules(identity=False, ah=False, half=False)


def logit_difference(model, pairs, run, hooks=()):
    rows = torch.arange(len(pairs))
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        last = logits(model, getattr(pairs, run))[rows, pairs.positions]
    return (last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]).numpy()


@pytest.mark.parametrize("name", [name for name in covering(2) if name != "soft-cap"])
def test_shares_add_up_to_the_logit_difference(name):
    model, pairs = model_of(name), task(positions=[8, 7, 6, 8, 5, 4])
    for run, heads in (("clean", True), ("corrupt", False)):
        found = direct(model, pairs, run=run, heads=heads, batch_size=4)
        wanted = logit_difference(model, pairs, run)
        np.testing.assert_allclose(found["value"].sum("component"), wanted, atol=1e-11)
        np.testing.assert_allclose(found["raw"], wanted, atol=1e-11)
        assert (abs(found["value"]).max("prompt") > 1e-6).sum() >= found.sizes["component"] - 1
    heads, layers = direct(model, pairs)["value"], direct(model, pairs, heads=False)["value"]
    for layer in range(anatomy(model).n_layers):  # heads and bias make up a layer's attention
        mine = (heads["layer"] == layer) & ~heads["component"].isin([f"MLP{layer}"])
        np.testing.assert_allclose(
            heads.where(mine, 0).sum("component"), layers.sel(component=f"L{layer}.attn_out"), atol=1e-11
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shares_in_half_precision(dtype):
    """Those of the same weights in float64, but for the rounding of what every part wrote."""
    half = interp.load("tiny-ioi", dtype=dtype)
    pairs = interp.tasks.ioi(half, n=6, seed=0)
    found, wanted = direct(half, pairs), direct(interp.load("tiny-ioi", dtype=torch.float64), pairs)
    largest = abs(wanted["value"]).max()
    np.testing.assert_allclose(found["value"], wanted["value"], atol=16 * torch.finfo(dtype).eps * largest)
    assert "one part in" in found.attrs["precision"]
    assert "precision" not in wanted.attrs


@pytest.mark.parametrize("family", small.FAMILIES)
def test_shares_of_a_bridge_add_up(family):
    model, pairs = small.bridge(family), task()
    found = direct(model, pairs)
    np.testing.assert_allclose(found["raw"], logit_difference(model, pairs, "clean"), atol=2e-5)
    assert found.sizes["component"] == 2 + 3 * 6
    assert abs(found["value"]).max() > 0.01


@pytest.mark.parametrize(
    "name", ["LN-gelu_new-plain-serial-gqa-rotary", "RMS-silu-gated-parallel-mha-learned"]
)
def test_a_share_is_lost_with_its_component_when_the_norm_is_held(name):
    """Take a component of the last layer out of the stream, the final scale pinned: its share is gone."""
    model, pairs = model_of(name), task()
    found = direct(model, pairs)["value"]
    scale = []
    with torch.no_grad(), model.hooks(fwd_hooks=[("ln_final.hook_scale", lambda t, hook: scale.append(t))]):
        logits(model, pairs.clean)
    pin = ("ln_final.hook_scale", lambda tensor, hook: scale[0])

    def without_head(tensor, hook):
        tensor = tensor.clone()
        tensor[:, :, 2] = 0
        return tensor

    def without_mlp(tensor, hook):
        return torch.zeros_like(tensor)

    whole = logit_difference(model, pairs, "clean")
    cuts = {"MLP2": ("blocks.2.hook_mlp_out", without_mlp)}
    if anatomy(model).parallel:  # a serial MLP would read the head
        cuts["L2H2"] = ("blocks.2.attn.hook_z", without_head)
    for component, cut in cuts.items():
        left = logit_difference(model, pairs, "clean", [cut, pin])
        np.testing.assert_allclose(found.sel(component=component), whole - left, atol=1e-12)
        assert abs(found.sel(component=component)).max() > 1e-3


def test_shares_are_relevance_under_the_ln_rule():
    """Write times slope of the last stream, the final norm's scale constant: the exact case of relevance."""
    model, pairs = model_of("LN-gelu_new-plain-serial-gqa-rotary"), task(positions=[8, 7, 6, 8, 5, 4])
    rows = torch.arange(len(pairs))

    def metric(out):
        last = out[rows, pairs.positions]
        return last[rows, pairs.answers[:, 0]] - last[rows, pairs.wrongs[:, 0]]

    writes = {"embed": "blocks.0.hook_resid_pre", "L1.attn_out": "blocks.1.hook_attn_out"}
    writes |= {f"MLP{layer}": f"blocks.{layer}.hook_mlp_out" for layer in range(3)}
    last = "blocks.2.hook_resid_post"
    _, values, slopes = gradients(model, pairs.clean, [*writes.values(), last], metric, rules=ONLY_LN)
    found = direct(model, pairs, heads=False)["value"]
    for component, name in writes.items():
        share = (values[name] * slopes[last]).sum((1, 2))
        np.testing.assert_allclose(found.sel(component=component), share, atol=1e-12)
        assert share.abs().max() > 1e-3


def test_without_a_norm_the_last_mlp_is_exact_patching():
    model, pairs = model_of("none-gelu_new-plain-serial-mha-learned"), task()
    exact = interp.patch(model, pairs, "mlp_out", progress=False)["value"].sel(layer=2, pos=8)
    clean, corrupt = (
        direct(model, pairs, run=run)["value"].sel(component="MLP2") for run in ("clean", "corrupt")
    )
    np.testing.assert_allclose(clean - corrupt, exact, atol=1e-12)
    assert abs(exact).max() > 1e-3


def test_under_a_soft_cap_logits_are_those_before_it():
    model, pairs = model_of("soft-cap"), task()
    cap = model.cfg.output_logits_soft_cap
    rows = torch.arange(len(pairs))
    with torch.no_grad():
        last = logits(model, pairs.clean)[rows, pairs.positions]
    before = cap * torch.atanh(last / cap)
    wanted = before[rows, pairs.answers[:, 0]] - before[rows, pairs.wrongs[:, 0]]
    np.testing.assert_allclose(direct(model, pairs)["raw"], wanted, rtol=1e-6, atol=1e-6)


def test_several_answers_are_averaged():
    model, pairs = model_of("LN-gelu_new-plain-serial-gqa-rotary"), task(n=2)
    many = interp.Task.from_tokens(
        clean=pairs.clean, corrupt=pairs.corrupt, answer=[[3, 4], [5, -1]], wrong=[[7, -1], [8, 9]]
    )
    rows = torch.arange(2)
    with torch.no_grad():
        last = logits(model, pairs.clean)[rows, many.positions]
    wanted = [last[0, [3, 4]].mean() - last[0, 7], last[1, 5] - last[1, [8, 9]].mean()]
    np.testing.assert_allclose(direct(model, many)["raw"], torch.stack(wanted), atol=1e-12)


def test_a_step_between_stream_and_logits_is_found():
    model = small.model()
    model.add_hook("ln_final.hook_normalized", lambda tensor, hook: 2 * tensor)
    try:
        with pytest.raises(ValueError, match=r"do not give its logits \(they differ by"):
            direct(model, task())
    finally:
        model.reset_hooks()


def test_wrong_arguments():
    model = small.model()
    with pytest.raises(ValueError, match="'source' is not 'clean' or 'corrupt'"):
        direct(model, task(), run="source")
    alone = interp.Task.from_tokens(clean=task().clean, answer=task().answer, wrong=task().wrong)
    with pytest.raises(ValueError, match="no corrupt prompts"):
        direct(model, alone, run="corrupt")
    with pytest.raises(ValueError, match="expected a TransformerLens model"):
        direct(torch.nn.Linear(2, 2), task())
