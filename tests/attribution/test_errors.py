"""What cannot be attributed: a clear error before the first forward pass, or at it."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch
from cases import QUIET, task
from estimates import model_of

import interp
from interp.attribution import attribute, direct, gradients, relevance
from interp.methods import IG, AtpStar, Exact, Relp
from interp.tasks import KL, Custom, LogitDiff, Rank


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.fixture
def no_forward(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(type(model), "forward", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "apt"}, "method 'apt' is not one of atp, ig.*did you mean 'atp'"),
        ({"method": "flow-routes"}, "'flow-routes' does not fit: cells are estimated by atp, ig"),
        ({"method": Exact()}, r"Exact\(\) does not fit"),
        ({"method": IG(variant="activations")}, "'activations' moves what writers write"),
        ({"metric": Rank()}, "metric 'rank' has no gradient"),
        (
            {"metric": [LogitDiff(), Rank()], "method": "secant"},
            "'rank' has no gradient.*'secant' needs one",
        ),
        ({"metric": KL(), "direction": "noise"}, "at its minimum in the clean run, where its slope is 0"),
        ({"metric": KL(), "direction": "noise", "method": "relp"}, "direction='denoise', or method='ig'"),
        (
            {"ablation": "zero", "method": "ig"},
            "'ig' works between two runs, and ablation 'zero' has",
        ),
        ({"ablation": "mean", "method": "secant"}, "'secant' works between two runs"),
        ({"ablation": "zero", "direction": "denoise"}, "no denoising direction"),
        ({"site": None, "cells": [["L0H0", "L1H1"]]}, "several patches has no estimate of its own"),
        ({"site": None}, "give site= "),
        ({"site": "resid_per"}, "did you mean 'resid_pre'"),
        ({"site": ["resid_pre", "z"]}, "different axes"),
        ({"by": ("layer", "neuron")}, "has no dim 'neuron'"),
        ({"direction": "sideways"}, "'sideways' is not one of denoise, noise"),
        ({"metric": []}, "metric is empty"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"memory": 0}, "memory is 0"),
    ],
)
def test_wrong_arguments(model, no_forward, arguments, message):
    with pytest.raises(ValueError, match=message):
        attribute(model, task(), **({"site": "z"} | arguments), **QUIET)


def test_not_a_model(no_forward):
    with pytest.raises(ValueError, match=r"expected a TransformerLens model.*got Linear"):
        attribute(torch.nn.Linear(2, 2), task(), "z", **QUIET)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside torch.compile
def test_compiled_models(model, no_forward):
    for compiled in (torch.compile(model), model):
        if compiled is model:
            model.compile()
        try:
            for call in (
                lambda m: attribute(m, task(), "z", **QUIET),
                lambda m: direct(m, task()),
                lambda m: relevance(m, task().clean[0], 3),
                lambda m: gradients(m, task().clean, ["hook_embed"], lambda out: out.sum()),
            ):
                with pytest.raises(ValueError, match="the model is compiled"):
                    call(compiled)
        finally:
            model._compiled_call_impl = None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_part(model, no_forward):
    model.blocks[1].mlp.compile()
    try:
        with pytest.raises(ValueError, match="the model is compiled"):
            attribute(model, task(), "z", **QUIET)
    finally:
        model.blocks[1].mlp._compiled_call_impl = None


def test_checkpointed_models(model, no_forward):
    model.blocks[0].gradient_checkpointing = True
    try:
        with pytest.raises(ValueError, match="activation checkpointing"):
            attribute(model, task(), "z", **QUIET)
    finally:
        model.blocks[0].gradient_checkpointing = False  # a bridge hands it on, and cannot delete it


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_:FutureWarning")  # transformers 5 has a new name
def test_checkpointing_of_hugging_face():
    bridge = small.bridge("llama")
    bridge.original_model.gradient_checkpointing_enable()
    try:
        with pytest.raises(ValueError, match="activation checkpointing"):
            attribute(bridge, task(), "z", **QUIET)
    finally:
        bridge.original_model.gradient_checkpointing_disable()
    assert abs(attribute(bridge, task(), "z", **QUIET)["value"]).max() > 1e-3


def test_train_mode(model, no_forward):
    model.train()
    try:
        with pytest.raises(ValueError, match=r"train mode.*model.eval\(\)"):
            attribute(model, task(), "z", **QUIET)
    finally:
        model.eval()


def test_models_of_one_layer_have_no_other_to_drop():
    """atp* runs without GradDrop there, and says so."""
    one = architectures.build({"n_layers": 1})
    with pytest.raises(ValueError, match="the model has only one"):
        attribute(one, task(), "z", method=AtpStar(qk_fix=False), **QUIET)
    for site in ("z", "q"):
        with pytest.warns(UserWarning, match="the model has only one: atp. runs without it"):
            star = attribute(one, task(), site, method="atp*", **QUIET)
        fix = attribute(one, task(), site, method=AtpStar(grad_drop=False), **QUIET)
        np.testing.assert_array_equal(star["value"], fix["value"])
        assert (star.attrs["grad_drop"], star.attrs["backwards"]) == (0, 1)
        assert "magnitudes" not in star.attrs["convention"]
        assert abs(star["value"]).max() > 1e-3


def test_heads_that_share_a_norm_have_no_closed_form():
    shared = model_of("post-norm")  # OLMo 2
    with pytest.raises(ValueError, match=r"normed together.*qk_fix=False"):
        attribute(shared, task(), "k", method="atp*", **QUIET)
    for method in (AtpStar(qk_fix=False), "atp", "secant"):
        assert abs(attribute(shared, task(), "k", method=method, **QUIET)["value"]).max() > 1e-6


def test_a_metric_that_turns_out_to_have_no_gradient(model):
    count = Custom(lambda r: (r.logits > 0).sum(-1).double(), name="count")
    with pytest.raises(ValueError, match="the metric has no gradient in the logits"):
        attribute(model, task(), "z", metric=count, **QUIET)


def test_metric_of_the_wrong_shape(model):
    with pytest.raises(ValueError, match="one number per prompt"):
        attribute(model, task(), "z", metric=Custom(lambda r: r.logits), **QUIET)


def test_a_site_that_no_gradient_reaches(model):
    """With the pattern held constant nothing flows through queries and keys."""
    for site in ("q", "k"):
        with pytest.raises(ValueError, match=rf"no gradient reaches blocks\.0\.attn\.hook_{site}.*ah=False"):
            attribute(model, task(), site, method="relp", **QUIET)
        assert abs(attribute(model, task(), site, method=Relp(ah=False), **QUIET)["value"]).max() > 1e-3
    for site in ("v", "pattern", "post"):
        assert abs(attribute(model, task(), site, method="relp", **QUIET)["value"]).max() > 1e-3


def test_a_hook_point_that_the_pass_does_not_go_by(model):
    """4.x refuses it by itself."""
    refusals = r"did not go through blocks\.1\.attn\.hook_result|use_attn_result is False"
    with pytest.raises(ValueError, match=refusals):
        gradients(model, task().clean, ["blocks.1.attn.hook_result"], lambda out: out[:, -1, 3])


def test_a_pattern_that_attention_computes_otherwise(model):
    """The QK fix computes patterns itself, and compares them with the model's own."""
    model.add_hook("blocks.1.attn.hook_attn_scores", lambda tensor, hook: tensor * 0.5)
    try:
        with pytest.raises(ValueError, match="layer 1: the pattern computed from queries and keys differs"):
            attribute(model, task(), "k", method=AtpStar(grad_drop=False), **QUIET)
        assert np.isfinite(attribute(model, task(), "k", **QUIET)["value"]).all()
    finally:
        model.reset_hooks()


@pytest.mark.parametrize("method", ["atp", "ig", "secant"])
def test_values_that_are_not_finite(model, method):
    parameter = model.blocks[1].mlp.b_out if hasattr(model.blocks[1].mlp, "b_out") else model.blocks[1].ln1.b
    kept = parameter.data.clone()
    parameter.data[0] = float("nan")
    try:
        with pytest.raises(ValueError, match=r"not finite: first in L1\.resid_post, prompt 0, position 0"):
            attribute(model, task(), "z", method=method, **QUIET)
    finally:
        parameter.data.copy_(kept)


def test_unknown_steps_are_refused_by_the_secant():
    model = small.model()
    model.cfg.use_attention_sinks = True
    try:
        with pytest.raises(ValueError, match=r"has to know every step of the model.*attention sinks"):
            attribute(model, task(), "z", method="secant", **QUIET)
    finally:
        del model.cfg.use_attention_sinks


def test_task_without_corrupt_prompts(model, no_forward):
    alone = interp.Task.from_tokens(clean=task().clean, answer=task().answer, wrong=task().wrong)
    with pytest.raises(ValueError, match="no corrupt prompts"):
        attribute(model, alone, "z", **QUIET)
