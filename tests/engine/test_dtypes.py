"""Dtypes that a model cannot run in are refused in a sentence; tables of another dtype are no obstacle."""

from __future__ import annotations

import architectures
import pytest
import small
import torch

from interp.engine.trust import weights_of
from interp.models import logits
from interp.models.parts import Rotary, Weights

TOKENS = torch.arange(3, 12)[None]


def test_rotation_keeps_the_dtype_of_what_it_turns():
    """OLMo's tables of angles are float32 whatever the model's dtype."""
    angles = torch.randn(9, 4)
    x = torch.randn(9, 2, 6).bfloat16()
    assert Rotary(angles.sin(), angles.cos(), adjacent=False)(x, torch.arange(9)).dtype == torch.bfloat16


@pytest.mark.parametrize("family", small.FAMILIES)
def test_bridges_are_trusted_in_their_dtype(family):
    assert isinstance(weights_of(small.bridge(family), TOKENS), Weights)


def test_a_model_of_two_dtypes_is_refused_in_a_sentence():
    model = architectures.build({})
    model.blocks[1].mlp.float()
    with pytest.raises(ValueError, match=r"does not run in torch\.float64: .* Load it in float32"):
        logits(model, TOKENS)
