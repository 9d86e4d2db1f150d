"""Our own format where HookedTransformer is gone: the same weights in a transformers model, bridged.

A TransformerBridge stands on a transformers model, so the state dict of a HookedTransformer is written
into one that computes the same function: GPT2LMHeadModel (LayerNorm, learned positions, plain MLP) or
LlamaForCausalLM (RMSNorm, rotary, gated MLP, grouped-query attention). Any other architecture is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.models import as_gpt2, as_llama, release
from interp.models.weightfile import FILE, check_weights

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
    "attn_scale": (-1.0,),
    "attn_scores_soft_cap": (-1.0, None, 0.0),
    "output_logits_soft_cap": (-1.0, None, 0.0),
}


def build(
    folder: Path,
    fields: dict[str, Any],
    state: dict[str, Tensor],
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    flags: dict[str, Any],
) -> Any:
    """A TransformerBridge in compatibility mode that computes what the state dict says."""
    target = as_llama if fields.get("positional_embedding_type") == "rotary" else as_gpt2
    fields = _settled(folder, fields)
    _require(folder, fields, target.RULES)
    check_weights(folder / FILE, state, _shapes(fields, target))
    for name in target.zero(fields):
        if state[name].any():
            raise ValueError(f"{folder / FILE}: {name!r} is not zero, and {REFUSED}.")
    hf_model = _filled(target.model_class(), target.config(fields, state), target.weights(fields, state))
    hf_model = hf_model.to(device=device, dtype=dtype).eval()
    default = {"default_prepend_bos": fields.get("default_prepend_bos", True)}
    return release.bridge(fields["model_name"], hf_model, tokenizer, default | flags)


def _settled(folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with the defaults that the targets read."""
    width = fields["d_head"]
    settled = DEFAULTS | fields
    settled["n_heads"] = fields.get("n_heads") or fields["d_model"] // width
    if fields.get("attn_scale") in (None, -1.0, width**0.5):
        settled.pop("attn_scale", None)
    if settled.get("rotary_dim") in (None, width):
        settled.pop("rotary_dim", None)
    if settled.get("d_vocab_out") in (None, -1, fields["d_vocab"]):
        settled.pop("d_vocab_out", None)
    for name in ("rotary_dim", "d_vocab_out"):
        if name in settled:
            raise ValueError(f"{folder / 'config.json'}: {name} is {settled[name]}, and {REFUSED}.")
    if "d_mlp" not in fields:
        raise ValueError(f"{folder / 'config.json'} lacks 'd_mlp'; add the model's sizes.")
    return settled


def _require(folder: Path, fields: dict[str, Any], rules: dict[str, tuple[Any, ...]]) -> None:
    for name, values in (COMMON | rules).items():
        value = fields.get(name, values[0])
        if value not in values:
            raise ValueError(
                f"{folder / 'config.json'}: {name} is {value!r}; under this release of TransformerLens it "
                f"must be {' or '.join(map(repr, values))}: {REFUSED}."
            )


def _shapes(fields: dict[str, Any], target: Any) -> dict[str, torch.Size]:
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
        found |= {f"{name}.{part}": (d,) for name in norms for part in target.NORM_PARTS}
    return {name: torch.Size(shape) for name, shape in found.items()}


def _filled(kind: Any, config: Any, found: dict[str, Tensor]) -> Any:
    """The transformers model with these weights.

    Norms that the state dict lacks (folded ones) keep transformers' start, gain one and bias zero.
    """
    model = kind(config)
    result = model.load_state_dict({name: value.contiguous() for name, value in found.items()}, strict=False)
    left = [name for name in result.missing_keys if "ln_" not in name and "norm" not in name]
    if left or result.unexpected_keys:
        raise RuntimeError(f"weights not placed in the transformers model: {left} {result.unexpected_keys}")
    return model
