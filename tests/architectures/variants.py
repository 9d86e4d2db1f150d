"""Configs of the zoo that change what is computed, and more architectures: fields as in `zoo`."""

from __future__ import annotations

from typing import Any

Family = tuple[str, str, dict[str, Any]]


def families(n_layers: int, window: int, gpt2: dict[str, Any], wide: dict[str, Any]) -> dict[str, Family]:
    """Name: class, config class, fields; of that many layers, with the sizes of a GPT-2 and of a Llama."""
    grouped = {**wide, "num_key_value_heads": 2}
    sliding = {**grouped, "sliding_window": window}
    gemma = {**sliding, "head_dim": 8, "query_pre_attn_scalar": 10}
    falcon = {key: value for key, value in wide.items() if key != "intermediate_size"}
    bloom = {"n_layer": n_layers, "hidden_size": 32, "n_head": 4}
    mpt = {"n_layers": n_layers, "d_model": 32, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2}
    opt = {**wide, "ffn_dim": 40, "word_embed_proj_dim": 32}
    mixed = ["sliding_attention", "full_attention", "sliding_attention"]
    short = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    yarn, linear = (
        {"rope_type": "yarn", **short},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    )
    factors = {"short_factor": [1.1, 1.3, 1.7, 2.1], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    longrope, half = {"rope_type": "longrope", **short, **factors}, {"partial_rotary_factor": 0.5}
    by_layer = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    experts = {**grouped, "num_experts_per_tok": 2}
    return {
        "GPT-2, scaled by layer": _gpt2({**gpt2, "scale_attn_by_inverse_layer_idx": True}),
        "GPT-2, relu, untied": _gpt2({**gpt2, "activation_function": "relu", "tie_word_embeddings": False}),
        "GPT-NeoX, serial": _of("GPTNeoX", {**wide, "rotary_pct": 0.5, "use_parallel_residual": False}),
        "GPT-NeoX, linear rotary": _of("GPTNeoX", {**wide, "rope_parameters": {**linear, **half}}),
        "CodeGen": _of("CodeGen", {**gpt2, "rotary_dim": 4, "tie_word_embeddings": False}),
        "Falcon, serial": _of("Falcon", {**falcon, "parallel_attn": False, "bias": True}),
        "Falcon, ALiBi": _of("Falcon", {**falcon, "alibi": True}),
        "OPT, norms after": _of("OPT", {**opt, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
        "Bloom, normed residual": _of("Bloom", {**bloom, "apply_residual_connection_post_layernorm": True}),
        "Bloom, 6 heads": _of("Bloom", {**bloom, "hidden_size": 36, "n_head": 6}),
        "MPT, clipped": _of("Mpt", {**mpt, "attn_config": {"clip_qkv": 0.5, "alibi_bias_max": 4}}),
        "Llama, biases, wide heads": _of(
            "Llama", {**grouped, "attention_bias": True, "mlp_bias": True, "head_dim": 16}
        ),
        "Llama, yarn rotary": _of("Llama", {**grouped, "rope_parameters": yarn}),
        "Llama, longrope": _of("Llama", {**grouped, "rope_parameters": longrope}),
        "Phi 3, longrope": _of(
            "Phi3",
            {**grouped, "rope_parameters": longrope, "original_max_position_embeddings": 16},
        ),
        "Phi 3, partial rotary": _of(
            "Phi3", {**grouped, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **half}}
        ),
        "StableLM, parallel": _of(
            "StableLm", {**grouped, **half, "use_parallel_residual": True, "use_qkv_bias": True}
        ),
        "StableLM, q/k norms": _of("StableLm", {**grouped, **half, "qk_layernorm": True}),
        "Qwen 2, mixed windows": _of("Qwen2", {**sliding, "use_sliding_window": True, "layer_types": mixed}),
        "Qwen 3, biases, wide heads": _of("Qwen3", {**grouped, "head_dim": 16, "attention_bias": True}),
        "Gemma 2, untied": _of("Gemma2", {**gemma, "tie_word_embeddings": False}),
        "Gemma 3, scaled rotary": (
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {**gemma, "layer_types": mixed, "rope_parameters": by_layer},
        ),
        "GLM 4": _of("Glm4", {**grouped, "head_dim": 8, **half}),
        "Arcee": _of("Arcee", grouped),
        "EXAONE 4": _of("Exaone4", {**sliding, "layer_types": mixed}),
        "Seed-OSS": _of("SeedOss", {**grouped, "head_dim": 16}),
        "Apertus": _of("Apertus", grouped),
        "Hunyuan": _of("HunYuanDenseV1", {**grouped, "head_dim": 8}),
        "ERNIE 4.5": _of("Ernie4_5", {**grouped, "head_dim": 8}),
        "OPT, no final norm": _of(
            "OPT", {**opt, "word_embed_proj_dim": 32, "_remove_final_layer_norm": True}
        ),
        "Gemma 3, both ways": (
            "Gemma3ForCausalLM",
            "Gemma3TextConfig",
            {**gemma, "layer_types": mixed, "use_bidirectional_attention": True},
        ),
        "Gemma 4, heads of two sizes": (
            "Gemma4ForCausalLM",
            "Gemma4TextConfig",
            {
                **{**sliding, "head_dim": 8, "global_head_dim": 16, "hidden_size_per_layer_input": 0},
                "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            },
        ),
        "Granite MoE": _of("GraniteMoe", {**experts, "num_local_experts": 4}),
    }


def _of(kind: str, fields: dict[str, Any]) -> Family:
    return f"{kind}ForCausalLM", f"{kind}Config", fields


def _gpt2(fields: dict[str, Any]) -> Family:
    return "GPT2LMHeadModel", "GPT2Config", fields
