"""The fixture grid: small random models of every architecture, in float64, with nonzero biases and gains."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

N_POS, N_PROMPTS, VOCAB = 9, 2, 30
BASE = {
    "n_layers": 3,
    "d_model": 24,
    "n_ctx": 16,
    "d_head": 6,
    "n_heads": 4,
    "d_mlp": 40,
    "d_vocab": VOCAB,
    "act_fn": "gelu_new",
    "normalization_type": "LN",
    "dtype": torch.float64,
    "device": "cpu",
    "seed": 0,
}
ROTARY = {"positional_embedding_type": "rotary", "rotary_dim": 6}


def grid() -> Iterator[tuple[str, dict[str, Any]]]:
    """{norm} × {act} × {plain, gated} × {serial, parallel} × {MHA, GQA} × {learned, rotary}, and others."""
    norms = ("LN", "LNPre", "RMS", "RMSPre", None)
    choices = itertools.product(
        norms, ("gelu_new", "silu", "relu"), (False, True), (False, True), (None, 2), (False, True)
    )
    for norm, act, gated, parallel, kv, rotary in choices:
        parts = [norm or "none", act]
        parts += ["gated" if gated else "plain", "parallel" if parallel else "serial"]
        parts += ["gqa" if kv else "mha", "rotary" if rotary else "learned"]
        config = {
            "normalization_type": norm,
            "act_fn": act,
            "gated_mlp": gated,
            "parallel_attn_mlp": parallel,
        }
        config |= {"n_key_value_heads": kv} | (ROTARY if rotary else {})
        yield "-".join(parts), config
    yield from extras()


def extras() -> Iterator[tuple[str, dict[str, Any]]]:
    """Architectures beside the product: one difference each from the plain model."""
    yield "attn-only", {"attn_only": True, "d_mlp": None, "act_fn": None}
    yield "sandwich-norm", {"normalization_type": "RMS", "use_normalization_before_and_after": True}
    yield (
        "post-norm",
        {"normalization_type": "RMS", "original_architecture": "Olmo2ForCausalLM", **ROTARY},
    )
    yield "local", {"use_local_attn": True, "window_size": 3, "attn_types": ["global", "local", "local"]}
    yield "alibi", {"positional_embedding_type": "alibi"}
    yield "soft-cap", {"attn_scores_soft_cap": 2.0, "output_logits_soft_cap": 3.0}
    yield "qk-norm", {"normalization_type": "RMS", "use_qk_norm": True, **ROTARY}
    yield "adjacent-rotary", {**ROTARY, "rotary_adjacent_pairs": True, "rotary_dim": 4}
    yield "clip", {"clip_qkv": 0.5, **ROTARY}
    yield "final-rms", {"final_rms": True}
    yield "embed-norm", {"post_embedding_ln": True, "positional_embedding_type": "alibi"}
    yield "layer-scaled", {"scale_attn_by_inverse_layer_idx": True}


def has_hooked_transformer() -> bool:
    """False on TransformerLens 4."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return False
    return HookedTransformer is not None


def build(config: dict[str, Any]) -> Any:
    """A HookedTransformer with every parameter random: biases and gains too."""
    if not has_hooked_transformer():
        pytest.skip("this TransformerLens has no HookedTransformer")
    import transformer_lens

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cfg = transformer_lens.HookedTransformerConfig(**(BASE | config))
        model = transformer_lens.HookedTransformer(cfg)
    generator = torch.Generator().manual_seed(1)
    tame = 1.0 if cfg.normalization_type else 0.4  # without a norm the stream would grow at every layer
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            gain = ("ln" in name or "norm" in name) and name.endswith(".w")
            scale = 0.3 if parameter.ndim == 1 or "b_" in name else tame / parameter.shape[-2] ** 0.5
            parameter.copy_(1.0 + 0.3 * noise if gain else noise * (1.0 if "embed.W" in name else scale))
    return model.eval()


def tokens(first: int = 2, n_prompts: int = N_PROMPTS, n_pos: int = N_POS, seed: int = 2) -> tuple:
    """Clean and corrupt tokens that differ from position `first` on, not everywhere."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(1, VOCAB, (n_prompts, n_pos), generator=generator)
    corrupt = clean.clone()
    shift = torch.randint(1, VOCAB - 1, (n_prompts, n_pos), generator=generator)
    change = torch.rand(n_prompts, n_pos, generator=generator) < 0.5
    change[:, :first] = False
    change[:, first] = True
    corrupt[change] = (clean[change] - 1 + shift[change]) % (VOCAB - 1) + 1
    return clean, corrupt
