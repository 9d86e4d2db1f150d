"""What a GGUF file says of a model, against what transformers made of it.

transformers reads the keys that it has a place for, and passes over the others without a word: the scaling
of rotary angles (keys, or a tensor of factors), windows, multipliers, the base of some architectures.
Comparing the model with transformers would not show it, since both lack the same. So every key of the
architecture must be in the model's config, and the tensors must have as many numbers as the model parameters.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

SILENT = ("context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "attention.causal")
FIELDS: dict[str, tuple[str, ...]] = {  # key in the file: fields of a config, the first that is there
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
}
_INSTEAD = "Load the folder that the file was made from."
_FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


def require_all_read(file: Path, model: Any) -> None:
    """ValueError where the file says something that transformers' model of it does not have."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))
    config = model.config.get_text_config()
    prefix = f"{_value(reader.fields['general.architecture'])}."
    for name in (name for name in reader.fields if name.startswith(prefix)):
        key, said = name.removeprefix(prefix), _value(reader.fields[name])
        if key not in SILENT and not _holds(said, has := _in_config(config, key)):
            raise ValueError(
                f"{file} says {name} = {said}, and transformers' model of it has "
                f"{'no place for that' if has is None else has}: it would be another model. {_INSTEAD}"
            )
    _require_tensors(file, reader.tensors, model)


def _value(field: Any) -> Any:
    """What a field of the file holds: a number, a word or a list of them."""
    from gguf import GGUFValueType

    parts = [field.parts[index] for index in field.data]
    if field.types[-1] == GGUFValueType.STRING:
        words = [bytes(part).decode("utf-8") for part in parts]
    else:
        words = [number for part in parts for number in part.tolist()]
    return words if field.types[0] == GGUFValueType.ARRAY else words[0]


def _require_tensors(file: Path, tensors: Any, model: Any) -> None:
    factors = [tensor for tensor in tensors if tensor.name.removesuffix(".weight").endswith(_FACTORS)]
    scaled = [tensor.name for tensor in factors if not (tensor.data == 1).all()]
    if scaled:
        raise ValueError(
            f"{file} scales its rotary angles by the tensor {scaled[0]!r}, which transformers does not "
            f"read: it would be another model. {_INSTEAD}"
        )
    n_file = sum(int(tensor.n_elements) for tensor in tensors) - sum(int(each.n_elements) for each in factors)
    n_model = sum(parameter.numel() for parameter in model.parameters())
    if n_file != n_model:
        raise ValueError(
            f"{file} has {n_file:,} numbers in its tensors, and transformers' model of it {n_model:,} "
            f"parameters: some were left out or made up. {_INSTEAD}"
        )


def _in_config(config: Any, key: str) -> Any:
    """What a config says of a key of the file; None where it has no such field."""
    rope = _rope(config)
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    derived = {
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": round(width * _partial(config, rope)),
        "rope.freq_base": rope.get("rope_theta"),
        "rope.scaling.type": {"default": "none"}.get(kind := str(rope.get("rope_type", "default")), kind),
        "rope.scaling.factor": rope.get("factor", 1.0),
        "rope.scaling.original_context_length": rope.get("original_max_position_embeddings"),
        "rope.scaling.attn_factor": rope.get("attention_factor"),
    }
    if key in derived:
        return derived[key]
    fields = (getattr(config, name, None) for name in FIELDS.get(key, ()))
    return next((value for value in fields if value is not None), None)


def _rope(config: Any) -> dict[str, Any]:
    """The rotary parameters, of full attention where layers differ."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    return rope if "rope_theta" in rope else {"rope_theta": getattr(config, "rope_theta", None), **rope}


def _partial(config: Any, rope: dict[str, Any]) -> float:
    return rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0


def _holds(said: Any, has: Any) -> bool:
    """Whether the two are the same number or word; the file keeps numbers in float32."""
    if isinstance(said, list):
        return len(set(said)) == 1 and _holds(said[0], has)
    if isinstance(said, int | float) and isinstance(has, int | float):
        return math.isclose(said, has, rel_tol=1e-5)
    return said == has or (has is None and said in (0, False, "none"))
