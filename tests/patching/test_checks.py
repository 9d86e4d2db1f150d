"""Bad input: a clear error before the first forward pass."""

from __future__ import annotations

import dataclasses

import pytest
import small
import torch
from cases import QUIET, task

import interp
from interp.ablation import Gaussian
from interp.tasks import Custom, LogitDiff, Metric


@pytest.fixture(scope="module")
def model():
    return small.model()


@pytest.fixture
def no_forward(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass ran")

    monkeypatch.setattr(type(model), "forward", refuse)
    monkeypatch.setattr("interp.engine.wavefront.capture", refuse)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "resid_per"}, "unknown site 'resid_per'; did you mean 'resid_pre'"),
        ({"site": []}, "no site given"),
        ({}, "give site="),
        ({"site": "z", "cells": ["L0H1"]}, "and not both"),
        ({"site": "z", "by": ("layer", "neuron")}, "'z' has no dim 'neuron'"),
        ({"site": "z", "by": ("head",)}, "has no 'layer'"),
        ({"site": "z", "by": ("layer", "layer")}, "twice"),
        ({"site": ["resid_pre", "z"]}, "different axes"),
        ({"site": "z", "window": 4}, "3 layers"),
        ({"site": "z", "window": 0}, "window is 0"),
        ({"site": "z", "neurons": [1]}, "has no 'neuron'"),
        ({"site": "post", "neurons": [40]}, "neurons 0 to 39"),
        ({"cells": []}, "cells= is empty"),
        ({"cells": ["L3H0"]}, r"layer 3 is out of range.*0 to 2"),
        ({"cells": ["L0H4"]}, r"head 4 is out of range.*0 to 3"),
        ({"cells": ["L0.resid_pre@9"]}, "pos 9 is out of range"),
        ({"cells": ["LOH4"]}, "names no place"),
        ({"cells": ["logits"]}, "not a site that can be patched"),
        ({"site": "z", "direction": "sideways"}, "'sideways' is not one of denoise, noise"),
        ({"site": "z", "ablation": "zeros"}, "'zeros' is not one of resample"),
        ({"site": "z", "ablation": "zero", "direction": "denoise"}, "no denoising direction"),
        ({"site": "z", "ablation": Gaussian(positions=(11,))}, r"positions \[11\] lie outside"),
        ({"site": "z", "metric": []}, "metric is empty"),
        ({"site": "z", "metric": [LogitDiff(), LogitDiff()]}, "share a name"),
        ({"site": "z", "batch_size": 0}, "batch_size is 0"),
        ({"site": "z", "engine": "faster"}, "'faster' is not one of auto, fast, reference"),
        ({"site": "z", "memory": 0}, "memory is 0"),
    ],
)
def test_wrong_arguments(model, no_forward, arguments, message):
    with pytest.raises(ValueError, match=message):
        interp.patch(model, task(), **arguments, **QUIET)
    if "engine" not in arguments:
        with pytest.raises(ValueError, match=message):
            interp.plan("patch", model, task(), **arguments)


def test_not_a_model(no_forward):
    with pytest.raises(ValueError, match=r"expected a TransformerLens model.*got Linear"):
        interp.patch(torch.nn.Linear(2, 2), task(), "z", **QUIET)


def test_model_in_train_mode(model, no_forward):
    model.train()
    try:
        with pytest.raises(ValueError, match=r"train mode.*model.eval\(\)"):
            interp.patch(model, task(), "z", **QUIET)
    finally:
        model.eval()


def test_a_compiled_part(model, no_forward, monkeypatch):
    """A compiled graph does not keep to hooks, in no verb. This is what `compile()` leaves on a module."""
    monkeypatch.setattr(model.blocks[0], "_compiled_call_impl", model.blocks[0]._call_impl)
    with pytest.raises(ValueError, match=r"the model is compiled \(torch\.compile\)"):
        interp.patch(model, task(), "z", **QUIET)


def test_tokens_on_another_device(model, no_forward):
    away = dataclasses.replace(task())
    object.__setattr__(away, "clean", torch.empty_like(away.clean, device="meta"))
    with pytest.raises(ValueError, match="tokens are on meta and the model on cpu"):
        interp.patch(model, away, "z", **QUIET)


def test_task_of_another_tokenizer(model, no_forward):
    big = task()
    clean = big.clean.clone()
    clean[2, 4] = 99
    other = interp.Task.from_tokens(clean=clean, corrupt=big.corrupt, answer=big.answer, wrong=big.wrong)
    with pytest.raises(ValueError, match="token id 99 is outside the model's vocabulary of 30"):
        interp.patch(model, other, "z", **QUIET)


def test_prompts_longer_than_the_context(model, no_forward):
    long = interp.Task.from_tokens(
        clean=torch.ones(1, 20, dtype=torch.long), corrupt=torch.full((1, 20), 2), answer=[3], wrong=[4]
    )
    with pytest.raises(ValueError, match="20 tokens, the model's context is 16"):
        interp.patch(model, long, "z", **QUIET)


def test_task_without_corrupt_prompts(model, no_forward):
    alone = interp.Task.from_tokens(clean=task().clean, answer=task().answer, wrong=task().wrong)
    with pytest.raises(ValueError, match="no corrupt prompts"):
        interp.patch(model, alone, "z", **QUIET)
    with pytest.raises(ValueError, match="which positions to spoil"):
        interp.patch(model, alone, "z", ablation="gaussian", **QUIET)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_metric_of_the_wrong_shape(model, engine):
    class Bad(Metric):
        name, unit = "bad", "logits"

        def __call__(self, reading):
            return reading.logits.mean()

    with pytest.raises(ValueError, match=r"metric 'bad' returned shape \(\); it must"):
        interp.patch(model, task(), "z", metric=Bad(), engine=engine, **QUIET)
    with pytest.raises(ValueError, match="one number per prompt"):
        interp.patch(model, task(), "z", metric=Custom(lambda r: r.logits), engine=engine, **QUIET)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_values_that_are_not_finite(model, engine):
    """The first place that is not finite is named."""
    parameter = dict(model.named_parameters())
    name = next(n for n in parameter if "1" in n and parameter[n].ndim == 1)
    kept = parameter[name].data.clone()
    parameter[name].data[0] = float("nan")
    try:
        with pytest.raises(
            ValueError, match=r"not finite: first in L[01]\.resid_post, .*prompt 0, position 0"
        ):
            interp.patch(model, task(), "z", engine=engine, **QUIET)
    finally:
        parameter[name].data.copy_(kept)


def test_fast_where_it_cannot_run(model):
    model.add_hook("blocks.0.hook_attn_out", lambda tensor, hook: tensor)
    try:
        with pytest.raises(ValueError, match="fast engine cannot run this model: hooks are attached"):
            interp.patch(model, task(), "z", engine="fast", **QUIET)
    finally:
        model.reset_hooks()


def test_half_precision_says_what_it_can_decide():
    for dtype, parts in (("bfloat16", "one part in 128"), ("float32", None)):
        model = interp.load("tiny-ioi", dtype=dtype)
        result = interp.patch(model, interp.tasks.ioi(model, n=2), "z", **QUIET)
        assert result.attrs["dtype"] == dtype
        assert parts is None or parts in result.attrs["precision"]
        assert ("precision" in result.attrs) == (parts is not None)
