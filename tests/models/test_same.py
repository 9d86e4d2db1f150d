"""A loaded model is the model: windows, rotary scaling, half precision, misleading names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import CLASS

import interp
from interp.models import _release, _same

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LONG = torch.randint(0, 60, (2, 40), generator=torch.Generator().manual_seed(1))


def folder_of(where: Path, architecture: str, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """A random model of transformers, its gains and biases drawn too, as a folder."""
    import transformers

    name = {"GPTJ": "GPTJForCausalLM"}.get(architecture, f"{architecture}ForCausalLM")
    with torch.random.fork_rng(devices=[]), _release.quiet():
        torch.manual_seed(0)
        model = getattr(transformers, name)(getattr(transformers, f"{architecture}Config")(**config)).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(where)
    return where


def theirs(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad(), _release.quiet():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits


WINDOWED = {
    "Qwen2": {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 0},
    "Qwen3": {"use_sliding_window": True, "sliding_window": 10, "max_window_layers": 0, "head_dim": 8},
    "Mistral": {"sliding_window": 10, "head_dim": 8},
    "Gemma2": {"sliding_window": 10, "head_dim": 8},
}


@pytest.mark.parametrize("architecture", WINDOWED)
def test_past_the_window(architecture: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", architecture, **SIZES, **WINDOWED[architecture])
    ours = interp.load(folder)(LONG)
    torch.testing.assert_close(
        ours.log_softmax(-1), theirs(folder, LONG).log_softmax(-1), atol=1e-3, rtol=1e-3
    )


def test_a_window_too_long_to_pass_is_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: with the windows of the config, and small; then the config is as it was."""
    config = {**SIZES, "sliding_window": 100, "head_dim": 8}
    folder = folder_of(tmp_path / "m", "Mistral", **config)
    monkeypatch.setattr(_same, "LONGEST", 32)
    monkeypatch.setattr(_same, "SHORT", 16)
    sizes: list[Any] = []
    small = _same._small
    monkeypatch.setattr(_same, "_small", lambda model: (sizes.append(1), small(model))[1])
    model = interp.load(folder)
    assert type(model).__name__ == CLASS
    assert sizes == [1]
    torch.testing.assert_close(model(LONG), theirs(folder, LONG), atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(CLASS != "HookedTransformer", reason="no conversion in this release")
def test_a_conversion_without_the_window_is_seen_though_the_prompt_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 100, "max_window_layers": 0}
    folder = folder_of(tmp_path / "m", "Qwen2", **SIZES, **windows)
    monkeypatch.setattr(_same, "LONGEST", 32)
    monkeypatch.setattr(_same, "SHORT", 16)
    assert type(interp.load(folder)).__name__ == "TransformerBridge"


LATE = {  # angles that are others than TransformerLens makes only beyond the prompt that is compared
    "longrope": ("Llama", {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 1.0,
                           "short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 9.0],
                           "original_max_position_embeddings": 600}),
    "base": ("Qwen2", {"rope_type": "default", "rope_theta": 10000.9}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LATE)
def test_rotary_angles_beyond_the_compared_prompt(tmp_path: Path, kind: str) -> None:
    architecture, rope = LATE[kind]
    sizes = {**SIZES, "max_position_embeddings": 4096}
    folder = folder_of(tmp_path / "m", architecture, **sizes, rope_parameters=rope)
    model = interp.load(folder)
    tokens = torch.randint(0, 60, (1, 800), generator=torch.Generator().manual_seed(1))
    right = theirs(folder, tokens)[0, -20:]
    assert (model(tokens)[0, -20:] - right).abs().max() < 1e-4 * right.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rotary_scaling_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    scaled = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    folder = folder_of(tmp_path / "scaled", "Llama", dtype, **SIZES, **scaled)
    model, exact = interp.load(folder), theirs(folder, LONG)
    off = (model(LONG).float() - exact.float()).abs().max()
    assert off < 0.1 * exact.float().std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["Llama", "Mistral"])
def test_half_precision_is_no_reason_to_refuse(tmp_path: Path, architecture: str, dtype: torch.dtype) -> None:
    folder = folder_of(tmp_path / "half", architecture, dtype, **SIZES)
    assert type(interp.load(folder)).__name__ == CLASS


def test_rotary_frequencies_are_not_rounded_to_half_precision(tmp_path: Path) -> None:
    """At position 700 a frequency in bfloat16 turns by another angle."""
    sizes = {**SIZES, "max_position_embeddings": 1024, "num_key_value_heads": 4}
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 1.3, "rope_theta": 10000.0}}
    folder = folder_of(tmp_path / "half", "Llama", torch.bfloat16, **sizes, **rope)
    tokens = torch.randint(0, 60, (1, 700), generator=torch.Generator().manual_seed(1))
    right = theirs(folder, tokens)[0, -20:].float()
    assert (interp.load(folder)(tokens)[0, -20:].float() - right).abs().max() < 0.1 * right.std()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1.01), (torch.bfloat16, 1.12)])
def test_a_bridge_that_is_not_the_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, scale: float
) -> None:
    folder = folder_of(tmp_path / "m", "Llama", dtype, **SIZES)
    bridge = _release.bridge

    def wrong(*args: Any) -> Any:
        model = bridge(*args)
        model.original_model.lm_head.weight.data *= scale
        return model

    monkeypatch.setattr(_release, "bridge", wrong)
    monkeypatch.setattr(_release, "has_hooked_transformer", lambda: False)
    with pytest.raises(ValueError, match=r"is not the model. Its logits differ .* spread"):
        interp.load(folder)


@pytest.mark.parametrize("name", ["gptj", "opt", "gpt2"])
def test_a_folders_name_is_a_label(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / name, "Llama", **SIZES)
    model = interp.load(folder)
    assert model.cfg.model_name == name
    torch.testing.assert_close(model(LONG), theirs(folder, LONG), atol=1e-4, rtol=1e-3)
    inside = folder_of(tmp_path / "mine" / "hf", "Llama", **SIZES)
    assert interp.load(inside).cfg.model_name == "mine/hf"
