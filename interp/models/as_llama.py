"""The state dict of a HookedTransformer as the weights of transformers' LlamaForCausalLM.

Both pair dimension i with i + d/2 in the rotary embedding, so no weight is reordered.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

RULES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("RMS", "RMSPre"),
    "positional_embedding_type": ("rotary",),
    "rotary_adjacent_pairs": (False,),
    "gated_mlp": (True,),
    "act_fn": ("silu", "gelu", "relu", "gelu_new"),
}
NORM_PARTS = ("w",)


def model_class() -> Any:
    """The transformers class."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM


def zero(fields: dict[str, Any]) -> list[str]:
    """Parameters that the transformers model has no place for (b_in comes after the product)."""
    return ["unembed.b_U", *(f"blocks.{layer}.mlp.b_in" for layer in range(fields["n_layers"]))]


def extra_shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters beside those that both targets have."""
    shape = (fields["d_model"], fields["d_mlp"])
    return {f"blocks.{layer}.mlp.W_gate": shape for layer in range(fields["n_layers"])}


def config(fields: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """The transformers config; biases only where the state dict has some that are not zero."""
    from transformers import LlamaConfig

    base = float(fields.get("rotary_base", 10000))  # the place of this field changed in transformers 5
    rope: dict[str, Any] = {
        "rope_theta": base,
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
    }
    return LlamaConfig(
        vocab_size=fields["d_vocab"],
        max_position_embeddings=fields["n_ctx"],
        hidden_size=fields["d_model"],
        intermediate_size=fields["d_mlp"],
        num_hidden_layers=fields["n_layers"],
        num_attention_heads=fields["n_heads"],
        num_key_value_heads=fields.get("n_key_value_heads") or fields["n_heads"],
        head_dim=fields["d_head"],
        hidden_act=fields["act_fn"],
        rms_norm_eps=fields.get("eps", 1e-5),
        **rope,
        attention_bias=_biased(state, "attn"),
        mlp_bias=_biased(state, "mlp"),
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
    )


def weights(fields: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformers state dict; its linear maps are (output, input)."""
    found = {
        "model.embed_tokens.weight": state["embed.W_E"],
        "lm_head.weight": state["unembed.W_U"].T,
        **_norm(state, "ln_final", "model.norm"),
    }
    for layer in range(fields["n_layers"]):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        found |= _norm(state, f"{ours}.ln1", f"{theirs}.input_layernorm")
        found |= _norm(state, f"{ours}.ln2", f"{theirs}.post_attention_layernorm")
        found |= _attention(state, f"{ours}.attn", f"{theirs}.self_attn", _biased(state, "attn"))
        for name, proj in (("W_gate", "gate"), ("W_in", "up"), ("W_out", "down")):
            found[f"{theirs}.mlp.{proj}_proj.weight"] = state[f"{ours}.mlp.{name}"].T
        if _biased(state, "mlp"):
            b_in = state[f"{ours}.mlp.b_in"]  # zero
            found |= {f"{theirs}.mlp.{proj}_proj.bias": b_in for proj in ("gate", "up")}
            found[f"{theirs}.mlp.down_proj.bias"] = state[f"{ours}.mlp.b_out"]
    return found


def _attention(state: dict[str, Tensor], ours: str, theirs: str, biased: bool) -> dict[str, Tensor]:
    found = {f"{theirs}.o_proj.weight": state[f"{ours}.W_O"].flatten(0, 1).T}
    found |= {f"{theirs}.o_proj.bias": state[f"{ours}.b_O"]} if biased else {}
    for name in "QKV":
        mark = "_" if f"{ours}._W_{name}" in state else ""  # grouped keys and values
        W, b = state[f"{ours}.{mark}W_{name}"], state[f"{ours}.{mark}b_{name}"]
        found[f"{theirs}.{name.lower()}_proj.weight"] = W.transpose(1, 2).flatten(0, 1)
        found |= {f"{theirs}.{name.lower()}_proj.bias": b.flatten()} if biased else {}
    return found


def _biased(state: dict[str, Tensor], part: str) -> bool:
    return any(bool(value.any()) for name, value in state.items() if f".{part}." in name and "b_" in name)


def _norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.weight": state[f"{ours}.w"]} if f"{ours}.w" in state else {}
