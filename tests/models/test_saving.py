"""A saved model loads again with the same logits, whatever its architecture, and is never written over."""

from __future__ import annotations

import json
from pathlib import Path

import architectures
import model_folders
import pytest
import torch

import interp
from interp import steering
from interp.models import logits, save

SHAPES = {
    "ln": {},
    "rms-rotary-gqa": {
        "normalization_type": "RMS",
        "n_key_value_heads": 2,
        "gated_mlp": True,
        **architectures.ROTARY,
    },
    "attn-only": {"attn_only": True, "d_mlp": None, "act_fn": None},
    "parallel": {"parallel_attn_mlp": True, "normalization_type": "LNPre"},
    "soft-cap": {"attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 3.0},
    "local": {"use_local_attn": True, "window_size": 3, "attn_types": ["global", "local", "local"]},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_hooked_model_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    model = architectures.build(SHAPES[name])
    folder = save(model, tmp_path / name)
    again = interp.load(folder)
    tokens, _ = architectures.tokens()
    with torch.no_grad():
        torch.testing.assert_close(logits(again, tokens), logits(model, tokens), rtol=0, atol=1e-12)
    assert again.W_E.dtype == torch.float64
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert not {"device", "seed", "init_weights", "NTK_by_parts_factor"} & set(config)


def test_baked_weights_are_what_is_saved_and_the_folder_is_not_written_over(tmp_path: Path) -> None:
    model = interp.load("tiny-ioi")
    d = steering.Direction.from_tensor(torch.linspace(-1, 1, model.cfg.d_model), "L1.resid_pre")
    tokens = torch.arange(4, 16)[None]
    with torch.no_grad(), steering.steer(model, steering.add(d, 2.0)):
        hooked = logits(model, tokens)
    with steering.bake(model, steering.add(d, 2.0)):
        folder = save(model, tmp_path / "new", source="tiny-ioi")
    again = interp.load(folder)
    with torch.no_grad():
        torch.testing.assert_close(logits(again, tokens), hooked, rtol=0, atol=2e-4)
        assert (logits(model, tokens) - hooked).abs().max() > 0.1
    assert again.to_tokens("Mary gave").tolist() == model.to_tokens("Mary gave").tolist()
    assert again.cfg.model_name == "tiny-ioi-new"
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"has a config\.json already"):
        save(model, folder, source="tiny-ioi")
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_bridge_of_a_model_in_the_hubs_format_is_refused(tmp_path: Path) -> None:
    import small

    with pytest.raises(ValueError, match="a TransformerBridge of a model in the hub's format"):
        save(small.bridge("gpt2"), tmp_path / "new")
    model_folders.save_llama(tmp_path / "hub")
    with pytest.raises(ValueError, match="a TransformerBridge of a model in the hub's format"):
        save(small.bridge("llama"), tmp_path / "new", source=tmp_path / "hub")
    assert not (tmp_path / "new").exists()
