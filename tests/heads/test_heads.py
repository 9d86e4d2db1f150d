"""Attention as the model has it, composition as TransformerLens defines it."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch

import interp
from interp import heads

needs_hooked = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="this release has no HookedTransformer"
)


@pytest.mark.parametrize("name", ["tiny-world", "induction"])
@needs_hooked
def test_composition_is_that_of_transformer_lens(name):
    model = interp.load(name)
    value = heads.composition(model)["value"]
    for mode in heads_modes():
        theirs = model.all_composition_scores(mode).detach().double().numpy()
        np.testing.assert_allclose(value.sel(mode=mode), theirs, atol=1e-6, equal_nan=True)
    assert float(value.sel(mode="K").max()) > 0.1


@needs_hooked
def test_composition_under_grouped_queries():
    """Key-value heads stand for every head of their group."""
    model = architectures.build({"n_key_value_heads": 2})
    value = heads.composition(model)["value"]
    for mode in heads_modes():
        theirs = model.all_composition_scores(mode).detach().double().numpy()
        np.testing.assert_allclose(value.sel(mode=mode), theirs, atol=1e-6, equal_nan=True)


def heads_modes():
    return ("Q", "K", "V")


def test_attention_is_the_models_own():
    model = interp.load("tiny-ioi")
    text = "When Mary and John went to the store"
    found = heads.attention(model, text, layer=[1])
    _, cache = model.run_with_cache(model.to_tokens(text))
    own = cache["blocks.1.attn.hook_pattern"].detach()
    np.testing.assert_allclose(found["value"][:, 0], own, atol=1e-6)
    assert found["head_name"].values[0].tolist() == [f"L1H{h}" for h in range(model.cfg.n_heads)]
    assert "Mary" in "".join(found["src_token"].values[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.attention(m, "Mary", layer=9), "layer .* is not there: the model has layers 0 to 2"),
        (lambda m: heads.attention(m, torch.tensor([[99999]])), "token ids 99999 to 99999"),
        (lambda m: heads.attention(m, torch.zeros(1, 0, dtype=torch.long)), "a token at least"),
        (
            lambda m: heads.attention(m, torch.ones(1, 400, dtype=torch.long)),
            "400 tokens, the model's context",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(interp.load("tiny-ioi"))
