"""GGUF files made here from small models of transformers: loaded as those models, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folders import CLASS, TOKENS

import interp

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: no GGUF file is read")

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "t", "w", "o", "a", "tw", "two"]
SIZES = {
    **{"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2},
    **{
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": None,
    },
}
NAMES = {  # of transformers, of the file
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"},
    "self_attn.o_proj": "attn_output",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))


def random_model(kind: str, **fields: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**(SIZES | fields))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def write(file: Path, kind: str, model: Any, keys: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """As llama.cpp's converter writes it, in float32; `keys` and `tensors` beside."""
    config, arch = model.config, {"Llama": "llama", "Qwen2": "qwen2"}[kind]
    writer = gguf.GGUFWriter(str(file), arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * len(WORDS))
    writer.add_token_merges(["t w", "tw o"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for key, value in (keys or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(f"{arch}.{key}", value)
    for name, value in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            writer.add_tensor(*_as_written(kind, config, name, value.numpy()))
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", np.asarray(value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _as_written(kind: str, config: Any, name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Name and numbers in the file; llama.cpp interleaves the two halves of a Llama's queries and keys."""
    body, suffix = name.rsplit(".", 1)
    layer = body.split(".")[2] if body.startswith("model.layers.") else None
    part = ".".join(body.split(".")[3:]) if layer else body
    if kind == "Llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.num_attention_heads if "q_proj" in part else config.num_key_value_heads
        value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
    return f"{f'blk.{layer}.' if layer else ''}{NAMES[part]}.{suffix}", np.ascontiguousarray(value)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Qwen2", {"rms_norm_eps": 1e-3}),
    ],
)
def test_a_file_is_the_model_that_it_was_made_from(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    source = random_model(kind, **fields)
    model = interp.load(write(tmp_path / "small.gguf", kind, source))
    assert type(model).__name__ == CLASS
    assert model.cfg.model_name == "small"
    with torch.no_grad():
        wanted = source(TOKENS).logits
        torch.testing.assert_close(model(TOKENS), wanted, atol=1e-4, rtol=1e-4)
    assert wanted.std() > 0.1
    assert model.to_tokens("two", prepend_bos=False).tolist() == [[WORDS.index("two")]]


@pytest.mark.parametrize(
    ("keys", "tensors", "says"),
    [
        ({"rope.scaling.type": "linear"}, {}, r"says llama.rope.scaling.type = linear, .* has none"),
        ({"attention.sliding_window": 8.0}, {}, r"says llama.attention.sliding_window = 8.0, .* no place"),
        ({"residual_scale": 0.5}, {}, r"says llama.residual_scale = 0.5, .* no place"),
        ({}, {"rope_freqs": [1.0, 1.0, 2.0, 8.0]}, r"scales its rotary angles by the tensor 'rope_freqs"),
        (
            {},
            {"blk.0.ffn_gate_shexp": np.ones((40, 32))},
            r"numbers in its tensors, .* were left out or made",
        ),
    ],
)
def test_what_transformers_does_not_read_is_refused(
    keys: dict[str, Any], tensors: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """It would be another model, and transformers would not say so."""
    file = write(tmp_path / "other.gguf", "Llama", random_model("Llama"), keys, **tensors)
    with pytest.raises(ValueError, match=rf"(?s){says}.*Load the folder that the file was made from"):
        interp.load(file)


def test_factors_that_change_nothing_are_no_reason_to_refuse(tmp_path: Path) -> None:
    source = random_model("Llama")
    model = interp.load(write(tmp_path / "same.gguf", "Llama", source, rope_freqs=[1.0] * 4))
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), source(TOKENS).logits, atol=1e-4, rtol=1e-4)
