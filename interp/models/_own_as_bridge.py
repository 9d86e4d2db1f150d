"""Our own format where HookedTransformer is gone: the same weights in a transformers model, bridged.

A TransformerBridge stands on a transformers model, so the state dict of a HookedTransformer is written
into one that computes the same function: GPT2LMHeadModel (LayerNorm, learned positions, plain MLP) or
LlamaForCausalLM (RMSNorm, rotary, gated MLP, grouped-query attention; both pair dimension i with i + d/2 in
the rotary embedding, so no weight is reordered). What is neither, and has learned positions and plain MLPs
or none, stands on TransformerLens's own model (`_own_as_native`). Any other architecture is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.models import _release
from interp.models._folder import FILE, check_weights

Fields = dict[str, Any]
State = dict[str, Tensor]

REFUSED = "this release of TransformerLens has no HookedTransformer to hold it; install transformer-lens 3.9"
DEFAULTS = {"normalization_type": "LN", "positional_embedding_type": "standard", "act_fn": "relu"}
COMMON: dict[str, tuple[Any, ...]] = {  # what both targets need; the first value is the default
    "attention_dir": ("causal",),
    "attn_only": (False,),
    "parallel_attn_mlp": (False,),
    "use_attn_scale": (True,),
    "use_local_attn": (False,),
    "use_qk_norm": (False,),
    "post_embedding_ln": (False,),
    "use_normalization_before_and_after": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "use_logn_attn": (False,),
    "use_dynamic_ntk_rope": (False,),
    "use_NTK_by_parts_rope": (False,),
    "use_yarn_rope": (False,),
    "use_attention_sinks": (False,),
    "num_experts": (None,),
    "clip_qkv": (None,),
    "rotary_base_local": (None,),
    "rotary_scaling_factor": (1.0,),
    "rotary_dim": (None,),
    "d_vocab_out": (-1,),
    "attn_scale": (-1.0,),
    "attn_scores_soft_cap": (-1.0, None, 0.0),
    "output_logits_soft_cap": (-1.0, None, 0.0),
}
GPT2_RULES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("LN", "LNPre"),
    "positional_embedding_type": ("standard",),
    "gated_mlp": (False,),
    "n_key_value_heads": (None,),
    "final_rms": (False,),
    "act_fn": ("relu", "gelu_new", "gelu", "silu"),
}
LLAMA_RULES: dict[str, tuple[Any, ...]] = {
    "normalization_type": ("RMS", "RMSPre"),
    "positional_embedding_type": ("rotary",),
    "rotary_adjacent_pairs": (False,),
    "gated_mlp": (True,),
    "act_fn": ("silu", "gelu", "relu", "gelu_new"),
}


_FREE = ("attn_scale", "d_vocab_out", "attn_scores_soft_cap", "output_logits_soft_cap")
NATIVE_RULES: dict[str, tuple[Any, ...]] = {
    **{name: values for name, values in (COMMON | GPT2_RULES).items() if name not in _FREE},
    "normalization_type": ("LN", "LNPre", None),
    "act_fn": ("relu", "gelu_new", "gelu", "silu", None),
    "attention_dir": ("causal", "bidirectional"),
    "attn_only": (False, True),
    "use_attn_scale": (True, False),
}


class Target(NamedTuple):
    """A transformers class, and how the state dict of a HookedTransformer becomes its own."""

    kind: str
    rules: dict[str, tuple[Any, ...]]  # what it needs of the fields; the first value is the default
    norm_parts: tuple[str, ...]
    zero: Callable[[Fields], list[str]]  # parameters that it has no place for
    extra_shapes: Callable[[Fields], dict[str, tuple[int, ...]]]  # parameters beside those of both
    config: Callable[[Fields, State], Any]
    weights: Callable[[Fields, State], State]


def build(
    folder: Path,
    fields: Fields,
    state: State,
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    flags: dict[str, Any],
) -> Any:
    """A TransformerBridge in compatibility mode that computes what the state dict says."""
    target = _target(fields)
    fields = _settled(folder, fields)
    misfit = _misfit(fields, COMMON | target.rules, "under this release of TransformerLens it")
    if _is_native(fields, state, misfit):
        from interp.models import _own_as_native  # which imports TransformerLens

        check_weights(folder / FILE, state, _own_as_native.shapes(fields))
        return _own_as_native.build(fields, state, tokenizer, device, dtype, flags)
    if misfit:
        raise ValueError(f"{folder / 'config.json'}: {misfit}: {REFUSED}.")
    check_weights(folder / FILE, state, _shapes(fields, target))
    for name in target.zero(fields):
        if state[name].any():
            raise ValueError(f"{folder / FILE}: {name!r} is not zero, and {REFUSED}.")
    hf_model = _filled(target.kind, target.config(fields, state), target.weights(fields, state))
    hf_model = hf_model.to(device=device, dtype=dtype).eval()
    default = {"default_prepend_bos": fields.get("default_prepend_bos", True)}
    return _release.bridge(fields["model_name"], hf_model, tokenizer, default | flags)


def as_transformers(name: str, fields: Fields, state: State) -> Any:
    """The transformers model that computes what the state dict says. ValueError where no class of it does."""
    target = _target(fields)
    fields = _settled(Path(name), fields)
    misfit = _misfit(
        fields, COMMON | target.rules, "in GPT-2 and Llama, the classes that hold such models, it"
    )
    if misfit:
        raise ValueError(f"{name}: {misfit}, so transformers has no class to export it to.")
    for bias in target.zero(fields):
        if bias in state and state[bias].any():
            raise ValueError(
                f"{name}: {bias!r} is not zero, and {target.kind} has no place for it. It comes from folding "
                "(fold_ln=True): load the model without, make the edit there, and export that."
            )
    return _filled(target.kind, target.config(fields, state), target.weights(fields, state))


def _target(fields: Fields) -> Target:
    return LLAMA if fields.get("positional_embedding_type") == "rotary" else GPT2


def _is_native(fields: Fields, state: State, misfit: str | None) -> bool:
    """Whether TransformerLens's own model holds it, and no class of transformers does."""
    biased = "unembed.b_U" in state and bool(state["unembed.b_U"].any())
    return (misfit is not None or biased) and _misfit(fields, NATIVE_RULES, "it") is None


def _settled(folder: Path, fields: Fields) -> Fields:
    """The fields with the defaults that the targets read."""
    width = fields["d_head"]
    settled = DEFAULTS | fields
    settled["n_heads"] = fields.get("n_heads") or fields["d_model"] // width
    if fields.get("attn_scale") in (None, -1.0, width**0.5):
        settled.pop("attn_scale", None)
    if settled.get("rotary_dim") in (None, width) or settled["positional_embedding_type"] != "rotary":
        settled.pop("rotary_dim", None)
    if settled.get("d_vocab_out") in (None, -1, fields["d_vocab"]):
        settled.pop("d_vocab_out", None)
    if "d_mlp" not in fields and not fields.get("attn_only"):
        raise ValueError(f"{folder / 'config.json'} lacks 'd_mlp'; add the model's sizes.")
    return settled


def _misfit(fields: Fields, rules: dict[str, tuple[Any, ...]], where: str) -> str | None:
    """The first field that a target cannot hold, in words; where: what has the rules."""
    for name, values in rules.items():
        value = fields.get(name, values[0])
        if value not in values:
            return f"{name} is {value!r}; {where} must be {' or '.join(map(repr, values))}"
    return None


def _shapes(fields: dict[str, Any], target: Target) -> dict[str, torch.Size]:
    """Names and shapes of the state dict that a HookedTransformer of these fields has."""
    d, inner, vocab, mlp = (fields[name] for name in ("d_model", "d_head", "d_vocab", "d_mlp"))
    heads, groups, mark = fields["n_heads"], fields.get("n_key_value_heads"), "_"
    if not groups:
        groups, mark = heads, ""
    found: dict[str, tuple[int, ...]] = {"embed.W_E": (vocab, d), "unembed.W_U": (d, vocab)}
    found |= {"unembed.b_U": (vocab,)} | target.extra_shapes(fields)
    norms = ["ln_final"]
    for block in (f"blocks.{layer}" for layer in range(fields["n_layers"])):
        norms += [f"{block}.ln1", f"{block}.ln2"]
        for prefix, letter, count in (("", "Q", heads), (mark, "K", groups), (mark, "V", groups)):
            found[f"{block}.attn.{prefix}W_{letter}"] = (count, d, inner)
            found[f"{block}.attn.{prefix}b_{letter}"] = (count, inner)
        found |= {f"{block}.attn.W_O": (heads, inner, d), f"{block}.attn.b_O": (d,)}
        found |= {f"{block}.mlp.W_in": (d, mlp), f"{block}.mlp.b_in": (mlp,)}
        found |= {f"{block}.mlp.W_out": (mlp, d), f"{block}.mlp.b_out": (d,)}
    if not str(fields["normalization_type"]).endswith("Pre"):
        found |= {f"{name}.{part}": (d,) for name in norms for part in target.norm_parts}
    return {name: torch.Size(shape) for name, shape in found.items()}


def _filled(kind: str, config: Any, found: dict[str, Tensor]) -> Any:
    """The transformers model with these weights.

    Norms that the state dict lacks (folded ones) keep transformers' start, gain one and bias zero.
    """
    import transformers

    model = getattr(transformers, kind)(config).to(next(iter(found.values())).dtype)
    result = model.load_state_dict({name: value.contiguous() for name, value in found.items()}, strict=False)
    left = [name for name in result.missing_keys if "ln_" not in name and "norm" not in name]
    if left or result.unexpected_keys:
        raise RuntimeError(f"weights not placed in the transformers model: {left} {result.unexpected_keys}")
    return model


def _gpt2_zero(fields: dict[str, Any]) -> list[str]:
    """Parameters that a GPT-2 has no place for."""
    return ["unembed.b_U"]


def _gpt2_extra_shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters beside those that both targets have."""
    return {"pos_embed.W_pos": (fields["n_ctx"], fields["d_model"])}


def _gpt2_config(fields: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """GPT2LMHeadModel's config."""
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


def _gpt2_weights(fields: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT2LMHeadModel's state dict; Conv1D weights are (input, output), as TransformerLens's."""
    found = {
        "transformer.wte.weight": state["embed.W_E"],
        "transformer.wpe.weight": state["pos_embed.W_pos"],
        "lm_head.weight": state["unembed.W_U"].T,
        **_gpt2_norm(state, "ln_final", "transformer.ln_f"),
    }
    for layer in range(fields["n_layers"]):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        found |= _gpt2_norm(state, f"{ours}.ln1", f"{theirs}.ln_1")
        found |= _gpt2_norm(state, f"{ours}.ln2", f"{theirs}.ln_2")
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


def _gpt2_norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    pairs = ((f"{ours}.w", f"{theirs}.weight"), (f"{ours}.b", f"{theirs}.bias"))
    return {new: state[old] for old, new in pairs if old in state}


def _llama_zero(fields: dict[str, Any]) -> list[str]:
    """Parameters that the transformers model has no place for (b_in comes after the product)."""
    return ["unembed.b_U", *(f"blocks.{layer}.mlp.b_in" for layer in range(fields["n_layers"]))]


def _llama_extra_shapes(fields: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters beside those that both targets have."""
    shape = (fields["d_model"], fields["d_mlp"])
    return {f"blocks.{layer}.mlp.W_gate": shape for layer in range(fields["n_layers"])}


def _llama_config(fields: dict[str, Any], state: dict[str, Tensor]) -> Any:
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


def _llama_weights(fields: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformers state dict; its linear maps are (output, input)."""
    found = {
        "model.embed_tokens.weight": state["embed.W_E"],
        "lm_head.weight": state["unembed.W_U"].T,
        **_llama_norm(state, "ln_final", "model.norm"),
    }
    for layer in range(fields["n_layers"]):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        found |= _llama_norm(state, f"{ours}.ln1", f"{theirs}.input_layernorm")
        found |= _llama_norm(state, f"{ours}.ln2", f"{theirs}.post_attention_layernorm")
        found |= _llama_attention(state, f"{ours}.attn", f"{theirs}.self_attn", _biased(state, "attn"))
        for name, proj in (("W_gate", "gate"), ("W_in", "up"), ("W_out", "down")):
            found[f"{theirs}.mlp.{proj}_proj.weight"] = state[f"{ours}.mlp.{name}"].T
        if _biased(state, "mlp"):
            b_in = state[f"{ours}.mlp.b_in"]  # zero
            found |= {f"{theirs}.mlp.{proj}_proj.bias": b_in for proj in ("gate", "up")}
            found[f"{theirs}.mlp.down_proj.bias"] = state[f"{ours}.mlp.b_out"]
    return found


def _llama_attention(state: dict[str, Tensor], ours: str, theirs: str, biased: bool) -> dict[str, Tensor]:
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


def _llama_norm(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.weight": state[f"{ours}.w"]} if f"{ours}.w" in state else {}


GPT2 = Target(
    "GPT2LMHeadModel", GPT2_RULES, ("w", "b"), _gpt2_zero, _gpt2_extra_shapes, _gpt2_config, _gpt2_weights
)
LLAMA = Target(
    "LlamaForCausalLM", LLAMA_RULES, ("w",), _llama_zero, _llama_extra_shapes, _llama_config, _llama_weights
)
