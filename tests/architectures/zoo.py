"""Tiny random models of transformers' own classes, as folders that `interp.load` reads.

Weights, gains and biases are drawn so that nothing is symmetric; every window is shorter than the prompts,
and every scale, cap and multiplier is on.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import variants

VOCAB, N_LAYERS, N_POS, WINDOW = 40, 3, 12, 4
_IDS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_WIDE = {
    **{"num_hidden_layers": N_LAYERS, "hidden_size": 32, "num_attention_heads": 4},
    **{"intermediate_size": 40, "max_position_embeddings": 64},
}
_GPT2 = {"n_layer": N_LAYERS, "n_embd": 32, "n_head": 4, "n_inner": 40, "n_positions": 64}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
_SLIDING = {**_GROUPED, "sliding_window": WINDOW}
_GEMMA = {**_SLIDING, "head_dim": 8, "query_pre_attn_scalar": 10}
_QWEN = {**_SLIDING, "use_sliding_window": True, "max_window_layers": 1}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_SHORT = {"original_max_position_embeddings": 16, "rope_theta": 10000.0, "factor": 4.0}
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_SHORT}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
_MLA = {
    **{"q_lora_rank": 12, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4},
    **{"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    **{"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "num_key_value_heads": 4},
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {  # name: class, config class, fields
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "GPT-NeoX": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**_WIDE, "rotary_pct": 0.5}),
    "GPT-J": ("GPTJForCausalLM", "GPTJConfig", {**_GPT2, "rotary_dim": 4, "tie_word_embeddings": False}),
    "GPT-Neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            **{"num_layers": 4, "hidden_size": 32, "num_heads": 4, "intermediate_size": 40},
            **{"max_position_embeddings": 64, "window_size": WINDOW},
            "attention_types": [[["global", "local"], 2]],
        },
    ),
    "GPT-BigCode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", _GPT2),
    "OPT": ("OPTForCausalLM", "OPTConfig", {**_WIDE, "ffn_dim": 40, "word_embed_proj_dim": 32}),
    "Bloom": ("BloomForCausalLM", "BloomConfig", {"n_layer": N_LAYERS, "hidden_size": 32, "n_head": 4}),
    "MPT": (
        "MptForCausalLM",
        "MptConfig",
        {"n_layers": N_LAYERS, "d_model": 32, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    ),
    "Falcon": ("FalconForCausalLM", "FalconConfig", {k: v for k, v in _WIDE.items() if k[:5] != "inter"}),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "Llama, tied": ("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "tie_word_embeddings": True}),
    "Llama, llama3 rotary": ("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "Llama, linear rotary": ("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "rope_parameters": _LINEAR}),
    "Mistral": ("MistralForCausalLM", "MistralConfig", _SLIDING),
    "Gemma 1": ("GemmaForCausalLM", "GemmaConfig", {**_GROUPED, "head_dim": 8}),
    "Gemma 2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
    ),
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**_GEMMA, "layer_types": _MIXED}),
    "Qwen 2": ("Qwen2ForCausalLM", "Qwen2Config", _QWEN),
    "Qwen 3": ("Qwen3ForCausalLM", "Qwen3Config", {**_QWEN, "head_dim": 8}),
    "Phi 2": ("PhiForCausalLM", "PhiConfig", {**_WIDE, "partial_rotary_factor": 0.5}),
    "Phi 3": ("Phi3ForCausalLM", "Phi3Config", _SLIDING),
    "OLMo 1": ("OlmoForCausalLM", "OlmoConfig", {**_GROUPED, "clip_qkv": 0.5}),
    "OLMo 2": ("Olmo2ForCausalLM", "Olmo2Config", _GROUPED),
    "OLMo 3": ("Olmo3ForCausalLM", "Olmo3Config", {**_SLIDING, "layer_types": _MIXED}),
    "StableLM": ("StableLmForCausalLM", "StableLmConfig", {**_GROUPED, "partial_rotary_factor": 0.5}),
    "Cohere": ("CohereForCausalLM", "CohereConfig", {**_GROUPED, "logit_scale": 0.3}),
    "StarCoder 2": ("Starcoder2ForCausalLM", "Starcoder2Config", _SLIDING),
    "GLM": ("GlmForCausalLM", "GlmConfig", {**_GROUPED, "head_dim": 8, "partial_rotary_factor": 0.5}),
    "Nemotron": ("NemotronForCausalLM", "NemotronConfig", _GROUPED),
    "SmolLM 3": ("SmolLM3ForCausalLM", "SmolLM3Config", {**_GROUPED, "no_rope_layers": [1, 0, 1]}),
    "Cohere 2": (
        "Cohere2ForCausalLM",
        "Cohere2Config",
        {**_SLIDING, "layer_types": _MIXED, "logit_scale": 0.3},
    ),
    "Llama, dynamic rotary": ("LlamaForCausalLM", "LlamaConfig", {**_GROUPED, "rope_parameters": _DYNAMIC}),
    "Granite": (
        "GraniteForCausalLM",
        "GraniteConfig",
        {
            **{**_GROUPED, "embedding_multiplier": 2.0, "residual_multiplier": 0.7},
            **{"attention_multiplier": 0.3, "logits_scaling": 1.7},
        },
    ),
    "Mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_EXPERTS, "num_local_experts": 4, "sliding_window": None},
    ),
    "Qwen 2 MoE": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
    ),
    "Qwen 3 MoE": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
    ),
    "OLMoE": ("OlmoeForCausalLM", "OlmoeConfig", {**_EXPERTS, "num_experts": 4}),
    "gpt-oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            **{**_EXPERTS, "num_local_experts": 4, "head_dim": 8, "sliding_window": WINDOW},
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    "DeepSeek 3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", {**_WIDE, **_MLA}),
    "Mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 4},
    ),
    "T5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4},
    ),
}
VARIANTS = variants.families(N_LAYERS, WINDOW, _GPT2, _WIDE)
FAMILIES |= VARIANTS
SINGLE = (  # experts have no float64
    *("Mixtral", "Qwen 2 MoE", "Qwen 3 MoE", "OLMoE", "gpt-oss", "DeepSeek 3", "Granite MoE"),
)
REFUSED = ("Mamba", "T5", "OPT, no final norm")  # of the last a bridge lacks a part
NOT_THE_MODEL = ("Falcon, ALiBi",)  # TransformerLens's own model of it, by its logits; interp.load says so
NOR_ON_3 = ("Cohere", "Cohere 2", "DeepSeek 3", "Hunyuan")  # release 4.3 is right on these
_ROOT = tempfile.TemporaryDirectory(prefix="zoo-")


def refused() -> tuple[str, ...]:
    """What cannot be loaded on the release that is installed."""
    from interp.models import _release

    return (*REFUSED, *NOT_THE_MODEL, *(NOR_ON_3 if _release.has_hooked_transformer() else ()))


def dtype_of(name: str) -> torch.dtype:
    """What transformers can compute the family in."""
    return torch.float32 if name in SINGLE else torch.float64


@functools.cache
def folder(name: str) -> Path:
    """The folder of a family's model, written at the first call."""
    import transformers

    kind, config_kind, fields = FAMILIES[name]
    where = Path(_ROOT.name) / f"model-{list(FAMILIES).index(name)}"
    config = getattr(transformers, config_kind)(**{**_IDS, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config)
    _draw(model)
    model.save_pretrained(where)
    _tokenizer().save_pretrained(where)
    return where


def _draw(model: torch.nn.Module) -> None:
    """Random numbers everywhere: gains and biases about where they start, matrices by their width."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.add_(0.3 * noise)
            elif "embed" in name or name.split(".")[-2] in ("wte", "wpe"):
                parameter.copy_(noise)
            else:
                parameter.copy_(1.2 * noise / parameter.shape[-1] ** 0.5)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<bos>": 0, "<eos>": 1, "<pad>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, VOCAB)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and corrupt tokens, three prompts; they differ at two positions."""
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(4, VOCAB, (3, N_POS), generator=generator)
    corrupt = clean.clone()
    corrupt[:, [3, 8]] = (clean[:, [3, 8]] - 4 + torch.tensor([[5, 9]])) % (VOCAB - 4) + 4
    return clean, corrupt
