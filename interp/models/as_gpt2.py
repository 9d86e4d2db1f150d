"""The state dict of a HookedTransformer as the weights of transformers' GPT2LMHeadModel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RULES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("LN", "LNPre"),
    "positional_embedding_type": ("standard",),
    "gated_mlp": (False,),
    "n_key_value_heads": (None,),
    "final_rms": (False,),
    "act_fn": ("relu", "gelu_new", "gelu", "silu"),
}
NORM_PARTS = ("w", "b")


def model_class() -> Any:
    """The transformers class."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel


def zero(fields: dict[str, Any]) -> list[str]:
    """Parameters that the transformers model has no place for."""
    return ["unembed.b_U"]


def extra_shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters beside those that both targets have."""
    return {"pos_embed.W_pos": (fields["n_ctx"], fields["d_model"])}


def config(fields: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """The transformers config."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=fields["d_vocab"],
        n_positions=fields["n_ctx"],
        n_embd=fields["d_model"],
        n_layer=fields["n_layers"],
        n_head=fields["n_heads"],
        n_inner=fields["d_mlp"],
        activation_function=fields["act_fn"],
        layer_norm_epsilon=fields.get("eps", 1e-5),
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
        architectures=["GPT2LMHeadModel"],
    )


def weights(fields: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformers state dict; Conv1D weights are (input, output), as TransformerLens's."""
    found = {
        "transformer.wte.weight": state["embed.W_E"],
        "transformer.wpe.weight": state["pos_embed.W_pos"],
        "lm_head.weight": state["unembed.W_U"].T,
        **_norm(state, "ln_final", "transformer.ln_f"),
    }
    for layer in range(fields["n_layers"]):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        found |= _norm(state, f"{ours}.ln1", f"{theirs}.ln_1") | _norm(state, f"{ours}.ln2", f"{theirs}.ln_2")
        joined = [state[f"{ours}.attn.W_{name}"].movedim(0, 1).flatten(1) for name in "QKV"]
        biases = [state[f"{ours}.attn.b_{name}"].flatten() for name in "QKV"]
        found[f"{theirs}.attn.c_attn.weight"] = torch.cat(joined, dim=1)  # (d_model, 3 · head · d_head)
        found[f"{theirs}.attn.c_attn.bias"] = torch.cat(biases)
        found[f"{theirs}.attn.c_proj.weight"] = state[f"{ours}.attn.W_O"].flatten(0, 1)
        found[f"{theirs}.attn.c_proj.bias"] = state[f"{ours}.attn.b_O"]
        for side, name in (("in", "c_fc"), ("out", "c_proj")):
            found[f"{theirs}.mlp.{name}.weight"] = state[f"{ours}.mlp.W_{side}"]
            found[f"{theirs}.mlp.{name}.bias"] = state[f"{ours}.mlp.b_{side}"]
    return found


def _norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    pairs = ((f"{ours}.w", f"{theirs}.weight"), (f"{ours}.b", f"{theirs}.bias"))
    return {new: state[old] for old, new in pairs if old in state}
