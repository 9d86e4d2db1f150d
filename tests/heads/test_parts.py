"""Position and content in attention scores: exact parts, known on a model built by hand."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp import heads
from interp.heads import _parts


def test_the_hand_built_heads_are_of_one_part_each():
    share = heads.parts(interp.load("induction"), n=24, prepend_bos=False)["value"].mean("prompt")
    np.testing.assert_allclose(share.sel(layer=0, head=0), [1, 0, 0, 0], atol=1e-6)
    assert float(share.sel(layer=1, head=0, part="content, content")) > 0.8
    assert np.isnan(share.sel(head=1)).all()  # idle heads look at all keys alike


@pytest.mark.parametrize("family", ["own", "llama"])
def test_the_parts_add_up_to_the_models_scores(family):
    """Rotated and grouped too: against the scores at the model's own hook points."""
    model = small.model() if family == "own" else small.bridge(family)
    rows = torch.randint(3, architectures.VOCAB, (3, 8), generator=torch.Generator().manual_seed(0))
    weights = interp.models.weights(model)
    vectors = _parts._vectors(weights, rows)
    _, cache = model.run_with_cache(rows)
    seen = torch.ones(8, 8).tril().bool()
    for layer, (q, k) in enumerate(vectors):
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / weights.blocks[layer].attn.scale
        theirs = cache[f"blocks.{layer}.attn.hook_attn_scores"].double()
        np.testing.assert_allclose(
            scores[..., seen].detach(),
            theirs[..., seen].detach(),
            atol=1e-6 * float(scores.detach().abs().max()),
        )
        own = _parts._shares(weights.blocks[layer].attn, q.detach(), k.detach(), seen)
        np.testing.assert_allclose(own.sum(1).mean(0), 1, atol=1e-9)
        assert np.abs(own).mean((0, 2)).min() > 1e-4  # all four are there


def test_fewer_than_two_prompts_have_no_mean():
    with pytest.raises(ValueError, match="at least two"):
        heads.parts(interp.load("tiny-ioi"), n=1)
