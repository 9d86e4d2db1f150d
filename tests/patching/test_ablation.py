"""Gaussian noise, zero and mean ablation: against hooks written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from cases import QUIET, task

import interp
from interp.ablation import Constants, Gaussian, Mean, Zero, gaussian_noise
from interp.models import logits

HEAD = "blocks.1.attn.hook_z"


@pytest.fixture(scope="module")
def model():
    return small.model()


def logit_diff(out, t):
    rows = torch.arange(len(t))
    last = out[rows, t.positions]
    return (last[rows, t.answer] - last[rows, t.wrong]).detach().numpy()


def ablated(model, t, value):
    """The clean run with head 2 of layer 1 replaced."""

    def hook(tensor, hook):
        out = tensor.clone()
        out[:, :, 2] = value
        return out

    with model.hooks(fwd_hooks=[(HEAD, hook)]):
        return logit_diff(logits(model, t.clean), t)


def test_zero_ablation_by_hand(model):
    t = task()
    effect = logit_diff(logits(model, t.clean), t) - ablated(model, t, 0.0)
    for ablation in ("zero", Zero()):
        result = interp.patch(model, t, "z", ablation=ablation, **QUIET)
        np.testing.assert_allclose(result["value"].sel(layer=1, head=2), effect, atol=1e-12)
    assert result.attrs["direction"] == "noise"
    assert np.abs(effect).min() > 1e-4


def test_mean_ablation_by_hand(model):
    t = task()
    kept = []
    with model.hooks(fwd_hooks=[(HEAD, lambda tensor, hook: (kept.append(tensor.detach()), tensor)[1])]):
        logits(model, t.corrupt)
    mean = kept[0][:, :, 2].mean(0)
    effect = logit_diff(logits(model, t.clean), t) - ablated(model, t, mean)
    result = interp.patch(model, t, "z", ablation=Mean(), **QUIET)
    np.testing.assert_allclose(result["value"].sel(layer=1, head=2), effect, atol=1e-12)
    assert np.abs(effect).min() > 1e-4


def test_mean_leaves_padding_out(model):
    """Positions that only some prompts reach are averaged over those."""
    t = task(n=2)
    short = interp.Task.from_tokens(
        clean=[t.clean[0].tolist(), t.clean[1, :6].tolist()],
        corrupt=[t.corrupt[0].tolist(), t.corrupt[1, :6].tolist()],
        answer=[3, 4],
        wrong=[15, 16],
    )
    result = interp.patch(model, short, "z", ("layer", "pos"), ablation="mean", **QUIET)
    np.testing.assert_allclose(result["value"][1, :, 6:], 0, atol=1e-12)  # nothing is read there
    alone = interp.patch(
        model, short[[0]], "z", ("layer", "pos"), ablation="resample", direction="noise", **QUIET
    )
    np.testing.assert_allclose(result["value"][0, :, 6:], alone["value"][0, :, 6:], atol=1e-12)
    assert abs(alone["value"][0, :, 6:]).max() > 1e-3


def test_mean_needs_no_corrupt_prompts(model):
    """Without them the mean is that of the clean prompts; `over` names any others."""
    t = task()
    alone = interp.Task.from_tokens(clean=t.clean, answer=t.answer, wrong=t.wrong)
    clean_mean = interp.patch(model, alone, "z", ablation="mean", **QUIET)
    over = interp.patch(model, t, "z", ablation=Mean(over=t.clean), **QUIET)
    np.testing.assert_allclose(clean_mean["value"], over["value"], atol=1e-12)
    corrupt_mean = interp.patch(model, t, "z", ablation="mean", **QUIET)
    assert abs(corrupt_mean["value"] - over["value"]).max() > 1e-3
    assert over.attrs["ablation"] != corrupt_mean.attrs["ablation"] == "mean"


def test_mean_over_prompts_of_another_length_is_one_mean(model):
    t = task()
    other = t.corrupt[:, :4]
    kept = []
    with model.hooks(fwd_hooks=[(HEAD, lambda tensor, hook: (kept.append(tensor.detach()), tensor)[1])]):
        logits(model, other)
    mean = kept[0][:, :, 2].mean((0, 1))
    effect = logit_diff(logits(model, t.clean), t) - ablated(model, t, mean)
    result = interp.patch(model, t, "z", ablation=Mean(over=other), **QUIET)
    np.testing.assert_allclose(result["value"].sel(layer=1, head=2), effect, atol=1e-12)
    with pytest.raises(
        ValueError, match=r"4 tokens a row, the task's prompts 9: attention patterns have no mean"
    ):
        interp.patch(model, t, "pattern", ablation=Mean(over=other), **QUIET)


def test_equal_rows_are_no_mistake_where_nothing_is_resampled(model):
    t = task()
    same = interp.Task.from_tokens(clean=t.clean, answer=t.answer, wrong=t.wrong)
    for ablation in ("zero", "mean"):
        assert abs(interp.patch(model, same, "z", ablation=ablation, **QUIET)["value"]).max() > 1e-3
    with pytest.raises(ValueError, match=r"no corrupt prompts.*'mean' or 'zero'"):
        interp.patch(model, same, "z", **QUIET)
    with pytest.raises(ValueError, match="constants stand for what the writers of a circuit write"):
        interp.patch(model, t, "z", ablation=Constants(torch.zeros(3, 4)), **QUIET)


@pytest.mark.parametrize("site", ["resid_pre", "k", "pattern", "mlp_out"])
@pytest.mark.parametrize("ablation", [Gaussian(sigma=1.0, draws=3), Zero(), Mean()])
def test_engines_agree(model, site, ablation):
    fast, slow = (
        interp.patch(model, task(), site, ablation=ablation, engine=engine, **QUIET)
        for engine in ("fast", "reference")
    )
    np.testing.assert_allclose(fast["value"], slow["value"], atol=1e-12)
    assert abs(slow["value"]).max() > 1e-3


def test_gaussian_by_hand(model):
    """One draw: the corrupt baseline is the clean prompt with that noise on its embeddings."""
    t, setting = task(), Gaussian(sigma=2.0, draws=1, seed=5)
    with torch.inference_mode():
        noise = gaussian_noise(model, t, setting)
    with model.hooks(fwd_hooks=[("hook_embed", lambda tensor, hook: tensor + noise)]):
        noised = logit_diff(logits(model, t.clean), t)
    result = interp.patch(model, t, "resid_pre", by="layer", ablation=setting, **QUIET)
    np.testing.assert_allclose(result["corrupt"], noised, atol=1e-12)
    whole = (result["clean"] - result["corrupt"]).values
    np.testing.assert_allclose(result["value"], np.repeat(whole[:, None], 3, 1), atol=1e-12)
    assert np.abs(whole).min() > 1e-3
    assert "draw_variance" not in result


def test_gaussian_draws(model):
    """Scale, places and independence of the noise; the mean and variance over draws."""
    t, setting = task(), Gaussian(sigma=3.0, draws=400, seed=1)
    with torch.inference_mode():
        noise = gaussian_noise(model, t, setting).unflatten(0, (6, 400))
        again = gaussian_noise(model, t[[4]], Gaussian(sigma=3.0, draws=400, seed=1))
        other = gaussian_noise(model, t, Gaussian(sigma=3.0, draws=400, seed=2)).unflatten(0, (6, 400))
    places = t.clean != t.corrupt
    assert ((noise.abs().sum((1, 3)) > 0) == places).all()
    spread = float(model.W_E.detach().float().std()) * 3
    assert abs(float(noise[0][:, places[0]].std()) / spread - 1) < 0.02
    assert not torch.equal(noise, other)
    assert torch.equal(again, noise[4])
    few = Gaussian(sigma=1.0, draws=4)
    result = interp.patch(model, t, "attn_out", ablation=few, **QUIET)
    alone = interp.patch(model, t[[3]], "attn_out", ablation=few, **QUIET)
    np.testing.assert_allclose(result["value"][3:4], alone["value"], atol=1e-12)
    assert float(result["draw_variance"].max()) > 0


def test_draws_do_not_depend_on_the_batch(model):
    few = Gaussian(sigma=1.0, draws=3)
    whole = interp.patch(model, task(), "z", ablation=few, **QUIET)
    pieces = interp.patch(model, task(), "z", ablation=few, batch_size=2, **QUIET)
    np.testing.assert_allclose(pieces["value"], whole["value"], atol=1e-12)
    np.testing.assert_allclose(pieces["draw_variance"], whole["draw_variance"], atol=1e-12)


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": float("nan")}, {"draws": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"must be a positive number|sigma is nan|draws is 0"):
        Gaussian(**options)
