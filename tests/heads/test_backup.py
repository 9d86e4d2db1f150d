"""Back-up heads: one that is planted is found, one that the norm makes is not; strengthening and repair."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
import toys

import interp
from interp import circuits, heads
from interp.ablation import Scaled

QUIET = {"progress": False}


def test_a_planted_backup_head_is_found():
    sketch = toys.with_backup()
    found = heads.backup(toys.model(sketch), toys.task(sketch, toys.WORDS), ["L0H0"], restore=True, **QUIET)
    steps_in = found["value"].mean("prompt")
    for norm in ("frozen", "recomputed"):  # the model has no norm
        np.testing.assert_allclose(steps_in.sel(norm=norm, layer=1), [7, 0], atol=1e-9)
    assert np.isnan(float(steps_in.sel(norm="frozen", layer=0, head=0)))
    np.testing.assert_allclose(found["direct"].mean("prompt").sel(layer=0, head=0), 10, atol=1e-9)
    # 10 for the word and 10 for the wrong one are lost; 7 come back, by L1H0 alone.
    np.testing.assert_allclose(found["direct_effect"], 20, atol=1e-9)
    np.testing.assert_allclose(found["total_effect"], 13, atol=1e-9)
    assert float(found["share"]) == pytest.approx(7 / 20)
    restored = found["restored"].mean("prompt")
    np.testing.assert_allclose(restored.sel(layer=1), [7, 0], atol=1e-9)
    assert np.isnan(restored.sel(layer=0)).all()


def test_a_shrunken_norm_is_no_backup():
    """One layer: no head sees another, but all share the final norm."""
    model = architectures.build({"n_layers": 1, "attn_only": True, "d_mlp": None, "act_fn": None})
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    found = heads.backup(model, task, ["L0H2"], **QUIET)["value"].drop_sel(head=2)
    assert float(abs(found.sel(norm="frozen")).max()) < 1e-9
    assert float(abs(found.sel(norm="recomputed")).max()) > 1e-3


@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_the_total_effect_is_that_of_patching_the_set(ablation):
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=6)
    out = ["L0H0", "L1H2"]
    found = heads.backup(model, task, out, ablation=ablation, batch_size=4, **QUIET)
    patched = interp.patch(model, task, cells=[out], direction="noise", ablation=ablation, **QUIET)
    np.testing.assert_allclose(found["total_effect"], patched["value"][:, 0], atol=1e-4)
    assert float(abs(found["total_effect"]).max()) > 0.1


def test_direct_effects_with_heads_out_are_those_under_hooks():
    """The recomputed column, by a model in which the heads' outputs are put in by hand."""
    model = small.model()
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    found = heads.backup(model, task, ["L0H1"], **QUIET)
    _, other = model.run_with_cache(corrupt)

    def put(z, hook):
        z = z.clone()
        z[:, :, 1] = other["blocks.0.attn.hook_z"][:, :, 1]
        return z

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", put)]):
        _, cache = model.run_with_cache(clean)
    own = interp.attribution.direct(model, task)
    rows, at = torch.arange(len(clean)), task.positions
    final = cache["blocks.2.hook_resid_post"][rows, at]
    scale = final.var(-1, unbiased=False).add(model.cfg.eps).sqrt()
    toward = (model.W_U[:, task.answer] - model.W_U[:, task.wrong]).T
    gain = getattr(model.ln_final, "w", None)
    toward = toward if gain is None else toward * gain
    for layer, head in ((1, 0), (2, 3)):
        z = cache[f"blocks.{layer}.attn.hook_z"][rows, at, head]
        write = z @ model.blocks[layer].attn.W_O[head]
        share = ((write - write.mean(-1, keepdim=True)) / scale[:, None] * toward).sum(-1)
        intact = own["value"].sel(component=f"L{layer}H{head}").values
        expected = share.detach().numpy() - intact
        measured = found["value"].sel(norm="recomputed", layer=layer, head=head)
        np.testing.assert_allclose(measured, expected, atol=1e-6)
        assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        (["L0H0"], {"ablation": "zero"}, "leaves the distribution"),
        (["L0.mlp_out"], {}, "is no head"),
        (["L0H0.q"], {}, "is no head"),
        ([], {}, "is no set of places"),
        (["L0H99"], {}, "L0H99"),
    ],
)
def test_bad_input_is_one_sentence(out, options, message):
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match=message):
        heads.backup(model, interp.tasks.ioi(model, n=4), out, **options, **QUIET)


def test_scaling_is_a_hook_that_multiplies_and_keeps_the_sign():
    model = small.model()
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])

    def difference(alpha):
        def scale(z, hook):
            z = z.clone()
            z[:, :, 1] *= alpha
            return z

        with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", scale)]):
            logits = model(clean)[torch.arange(2), task.positions]
        return (logits.gather(1, task.answers) - logits.gather(1, task.wrongs))[:, 0].detach().numpy()

    clean_value = difference(1.0)
    for alpha, sign in ((0.5, -1), (2.0, 1), (0.0, -1)):
        for engine in ("auto", "reference") if alpha == 2.0 else ("auto",):
            effect = interp.patch(model, task, "z", ablation=Scaled(alpha), engine=engine, **QUIET)
            expected = sign * (difference(alpha) - clean_value)
            np.testing.assert_allclose(effect["value"].sel(layer=1, head=1), expected, atol=1e-8)
            assert np.abs(expected).max() > 1e-3
    zero = interp.patch(model, task, "z", ablation="zero", **QUIET)
    np.testing.assert_allclose(effect["value"], zero["value"], atol=1e-9)
    assert (
        "made stronger" in interp.patch(model, task, "z", ablation=Scaled(2.0), **QUIET).attrs["convention"]
    )


def test_estimates_of_scaling_have_the_same_sign():
    """To first order twice as much is as much more as nothing is less."""
    model = small.model()
    clean, corrupt = architectures.tokens()
    task = interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    twice, zero = (
        interp.attribute(model, task, "z", method="atp", ablation=ablation, **QUIET)["value"]
        for ablation in (Scaled(2.0), "zero")
    )
    np.testing.assert_allclose(twice, zero, atol=1e-9)
    assert float(abs(twice).max()) > 1e-3


def test_strengthening_a_head_that_helps_helps():
    sketch = toys.independent()
    model, task = toys.model(sketch), toys.task(sketch, toys.WORDS)
    value = interp.patch(model, task, "z", ablation=Scaled(2.0), **QUIET)["value"].mean("prompt")
    np.testing.assert_allclose(value.values[0], [6, 4, 0], atol=1e-9)


def test_scaling_that_is_none_and_scaled_edges_are_refused():
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=4)
    for alpha, said in ((1.0, "other than 1"), (float("nan"), "alpha is nan; give a number")):
        with pytest.raises(ValueError, match=said):
            Scaled(alpha)
    with pytest.raises(ValueError, match="not a multiple"):
        circuits.score_edges(model, task, ablation=Scaled(2.0), **QUIET)
    with pytest.raises(ValueError, match="no denoising direction"):
        interp.patch(model, task, "z", ablation=Scaled(2.0), direction="denoise", **QUIET)
