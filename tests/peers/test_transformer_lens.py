"""The same numbers as `transformer_lens.patching`, for every sweep that it offers."""

from __future__ import annotations

import architectures
import numpy as np
import pytest
import torch

import interp
from interp.tasks import Task

if not architectures.has_hooked_transformer():
    pytest.skip("transformer_lens.patching needs HookedTransformer", allow_module_level=True)

PAIRS = [
    ("get_act_patch_resid_pre", "resid_pre", ("layer", "pos")),
    ("get_act_patch_resid_mid", "resid_mid", ("layer", "pos")),
    ("get_act_patch_attn_out", "attn_out", ("layer", "pos")),
    ("get_act_patch_mlp_out", "mlp_out", ("layer", "pos")),
    ("get_act_patch_attn_head_out_all_pos", "z", ("layer", "head")),
    ("get_act_patch_attn_head_q_all_pos", "q", ("layer", "head")),
    ("get_act_patch_attn_head_k_all_pos", "k", ("layer", "head")),
    ("get_act_patch_attn_head_v_all_pos", "v", ("layer", "head")),
    ("get_act_patch_attn_head_pattern_all_pos", "pattern", ("layer", "head")),
    ("get_act_patch_attn_head_out_by_pos", "z", ("layer", "pos", "head")),
    ("get_act_patch_attn_head_k_by_pos", "k", ("layer", "pos", "head")),
    ("get_act_patch_attn_head_pattern_by_pos", "pattern", ("layer", "head", "dst")),
]


@pytest.fixture(scope="module")
def case():
    model = architectures.build({"dtype": torch.float32})
    clean, corrupt = architectures.tokens(2)
    task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[15, 16])
    with torch.inference_mode():
        _, cache = model.run_with_cache(clean)
    return model, task, cache


@pytest.mark.parametrize(("name", "site", "by"), PAIRS)
def test_same_numbers(case, name, site, by):
    from transformer_lens import patching

    model, task, cache = case

    def metric(logits):
        rows = torch.arange(2)
        last = logits[rows, -1]
        return (last[rows, task.answer] - last[rows, task.wrong]).mean()

    with torch.inference_mode():
        theirs = getattr(patching, name)(model, task.corrupt, cache, metric).numpy()
    ours = interp.patch(model, task, site, by, progress=False)
    raw = (ours["value"] + ours["corrupt"]).mean("prompt").transpose(*by)
    np.testing.assert_allclose(raw, theirs, atol=1e-5)
    assert np.abs(theirs - float(ours["corrupt"].mean())).max() > 1e-2
