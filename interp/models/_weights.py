"""A model's weights as the fast engine reads them: references, never copies.

`weights(model)` looks through HookedTransformer or TransformerBridge and returns plain tensors in
TransformerLens's shapes (interp.models.parts).
`unsupported(model)` says why the fast engine cannot be used on a model, or None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.models._anatomy import POST_NORM, WHOLE_QK_NORM, Model, has_hooks
from interp.models.parts import MLP, Attention, Block, Norm, Rotary, Weights

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
}


def unsupported(model: Model) -> str | None:
    """Why the fast engine cannot run this model, in words for the user; None if it can try."""
    cfg = model.cfg
    reasons = {
        "hooks are attached to the model": has_hooks(model),
        "its attention is not causal": getattr(cfg, "attention_dir", "causal") != "causal",
        "it is a mixture of experts": bool(getattr(cfg, "num_experts", None)),
        "its weights are 4-bit": bool(getattr(cfg, "load_in_4bit", False)),
        "it has attention sinks": bool(getattr(cfg, "use_attention_sinks", False)),
        "it scales queries by log n": bool(getattr(cfg, "use_logn_attn", False)),
        "it rescales rotary embeddings": bool(getattr(cfg, "use_dynamic_ntk_rope", False)),
        "it lies on several devices": (getattr(cfg, "n_devices", 1) or 1) > 1,
        f"activation {cfg.act_fn!r} is not known to it": not cfg.attn_only and cfg.act_fn not in ACTIVATIONS,
        f"position embedding {cfg.positional_embedding_type!r} is not known to it": (
            cfg.positional_embedding_type not in ("standard", "rotary", "alibi", "none")
        ),
        "compatibility mode is off (model.enable_compatibility_mode())": (
            getattr(model, "compatibility_mode", True) is False
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def attentions(model: Model) -> tuple[Attention, ...]:
    """The weights of attention alone, which a model may have in the expected form without the rest."""
    rotary = _rotary(model)
    return tuple(_attention(block.attn, model.cfg, rotary) for block in model.blocks)


def stream_norms(model: Model) -> list[tuple[torch.nn.Module, Norm]]:
    """The modules of all norms that the stream passes, after the embedding, with what they compute."""
    cfg = model.cfg
    if cfg.normalization_type is None:
        return []
    names = ("ln1", "ln1_post", "ln2", "ln2_post")
    found: list[Any] = [getattr(block, name, None) for block in model.blocks for name in names]
    norms = [(module, _norm(module, cfg)) for module in found]
    norms.append((model.ln_final, final_norm(model)))
    return [(module, norm) for module, norm in norms if norm is not None]


def attn_out_norm(model: Model, block: Any) -> Norm | None:
    """The norm of what a block's attention writes, if there is one."""
    if model.cfg.normalization_type is None:
        return None
    return _norm(getattr(block, "ln1" if _post_norm(model.cfg) else "ln1_post", None), model.cfg)


def final_norm(model: Model) -> Norm | None:
    """The norm before the unembedding."""
    cfg = model.cfg
    return None if cfg.normalization_type is None else _norm(model.ln_final, cfg, rms=bool(cfg.final_rms))


def _rotary(model: Model) -> Rotary | None:
    return _bridge_rotary(model) if model.cfg.positional_embedding_type == "rotary" else None


def _post_norm(cfg: Any) -> bool:
    """OLMo 2 and 3 norm what a sublayer writes and not what it reads."""
    return cfg.original_architecture in POST_NORM


def weights(model: Model) -> Weights:
    """References to a model's weights; raises AttributeError where the model lacks an expected part."""
    cfg = model.cfg
    rotary = _rotary(model)
    blocks = tuple(_block(model, block, rotary) for block in model.blocks)
    standard = cfg.positional_embedding_type == "standard"
    embed_norm = getattr(model.embed, "ln", None) if getattr(cfg, "post_embedding_ln", False) else None
    return Weights(
        W_E=model.W_E,
        W_pos=_position_table(model) if standard else None,
        embed_norm=_norm(embed_norm, cfg),
        blocks=blocks,
        final_norm=final_norm(model),
        W_U=model.W_U,
        b_U=getattr(model, "b_U", None),
        soft_cap=_cap(cfg, "output_logits_soft_cap"),
    )


def _position_table(model: Model) -> Tensor:
    """HookedTransformer's pos_embed holds `W_pos`; the bridge's wraps an embedding."""
    table = getattr(model.pos_embed, "W_pos", None)
    return model.pos_embed.weight if table is None else table


def _cap(cfg: Any, name: str) -> float:
    return float(getattr(cfg, name, None) or -1.0)


def _norm(module: Any, cfg: Any, rms: bool = False) -> Norm | None:
    if module is None or isinstance(module, torch.nn.Identity):
        return None
    gain = getattr(module, "w", None)
    gain = getattr(module, "weight", None) if gain is None else gain
    bias = getattr(module, "b", None)
    bias = getattr(module, "bias", None) if bias is None else bias
    rms = rms or type(module).__name__.startswith("RMS") or str(cfg.normalization_type).startswith("RMS")
    centred = not rms
    eps = getattr(module, "eps", None)
    return Norm(centred, float(cfg.eps if eps is None else eps), gain, bias if centred else None)


def _block(model: Model, block: Any, rotary: Rotary | None) -> Block:
    cfg = model.cfg
    norm = {name: _norm(getattr(block, name, None), cfg) for name in ("ln1", "ln2", "ln1_post", "ln2_post")}
    if cfg.normalization_type is None:
        norm = dict.fromkeys(norm)
    post = _post_norm(cfg)
    mlp_norms = (None, norm["ln2"]) if post else (norm["ln2"], norm["ln2_post"])
    return Block(
        attn=_attention(block.attn, cfg, rotary),
        mlp=None if cfg.attn_only else _mlp(block.mlp, cfg, *mlp_norms),
        attn_norm=None if post else norm["ln1"],
        attn_out_norm=attn_out_norm(model, block),
        parallel=bool(getattr(cfg, "parallel_attn_mlp", False)),
    )


def _attention(attn: Any, cfg: Any, rotary: Rotary | None) -> Attention:
    grouped = hasattr(attn, "_W_K") and not getattr(cfg, "ungroup_grouped_query_attention", False)
    own = "_" if grouped else ""  # the plain names repeat each key-value head for its group
    if hasattr(attn, "rotary_sin"):
        rotary = Rotary(attn.rotary_sin, attn.rotary_cos, bool(cfg.rotary_adjacent_pairs))
    scale = getattr(attn, "attn_scale", None)
    if not isinstance(scale, (int, float)):
        scale = cfg.attn_scale if cfg.attn_scale > 0 else cfg.d_head**0.5
    local = getattr(attn, "attn_type", "global") == "local"
    alibi = cfg.positional_embedding_type == "alibi"
    return Attention(
        W_Q=attn.W_Q,
        W_O=attn.W_O,
        W_K=getattr(attn, f"{own}W_K"),
        W_V=getattr(attn, f"{own}W_V"),
        b_Q=getattr(attn, "b_Q", None),
        b_K=getattr(attn, f"{own}b_K", None),
        b_V=getattr(attn, f"{own}b_V", None),
        b_O=getattr(attn, "b_O", None),
        scale=float(scale),
        soft_cap=_cap(cfg, "attn_scores_soft_cap"),
        clip=getattr(cfg, "clip_qkv", None),
        window=cfg.window_size if local else None,
        q_norm=_norm(getattr(attn, "q_norm", None), cfg, rms=True),
        k_norm=_norm(getattr(attn, "k_norm", None), cfg, rms=True),
        whole_norm=cfg.original_architecture in WHOLE_QK_NORM,
        rotary=rotary,
        alibi=_alibi_slopes(cfg.n_heads, attn.W_Q) if alibi else None,
    )


def _mlp(mlp: Any, cfg: Any, norm: Norm | None, out_norm: Norm | None) -> MLP:
    return MLP(
        W_in=mlp.W_in,
        W_gate=mlp.W_gate if cfg.gated_mlp else None,
        W_out=mlp.W_out,
        b_in=getattr(mlp, "b_in", None),
        b_out=getattr(mlp, "b_out", None),
        act=ACTIVATIONS[cfg.act_fn],
        norm=norm,
        out_norm=out_norm,
    )


def _alibi_slopes(n_heads: int, like: Tensor) -> Tensor:
    start = 2 ** (-8 / n_heads)
    return torch.tensor([start ** (i + 1) for i in range(n_heads)], dtype=torch.float32, device=like.device)


def _bridge_rotary(model: Model) -> Rotary | None:
    """The bridge keeps its rotary tables inside the Hugging Face module: ask it for all positions."""
    module = getattr(model, "rotary_emb", None)
    if module is None:
        return None
    inner = getattr(module, "_original_component", module)
    pos = torch.arange(model.cfg.n_ctx, device=model.W_E.device)[None]
    with torch.no_grad():
        cos, sin = inner(model.W_E[:1, None], pos)  # each [1, n_ctx, rotary_dim]
    return Rotary(sin[0].clone(), cos[0].clone(), adjacent=False)
