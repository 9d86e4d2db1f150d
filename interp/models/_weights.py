"""A model's weights as the fast engine reads them: references, never copies.

`weights(model)` looks through HookedTransformer or TransformerBridge and returns plain tensors in
TransformerLens's shapes (interp.models.parts). What depends on the architecture is in `_architecture`.
`unsupported(model)` says why the fast engine cannot be used on a model, or None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.models._architecture import Architecture, Model, architecture, inner, transformers_config
from interp.models._computation import has_hooks
from interp.models._norms import NotLaidOut, block_norms, embed_norm, final_norm, first_of, read_norm
from interp.models._placement import quantised
from interp.models.parts import MLP, Attention, Block, Norm, Rotary, Weights, beside, tensors

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu_bloom": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.79788456 * (1 + 0.044715 * x * x))),
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}
# By the module that makes them, the kind of layer, and the device of the layers that use them.
Tables = dict[tuple[int, Any, torch.device], Rotary]


def unsupported(model: Model) -> str | None:
    """Why the fast engine cannot run this model, in words for the user; None if it can try."""
    cfg, known, packed = model.cfg, architecture(model), quantised(model)
    reasons = {
        "hooks are attached to the model": has_hooks(model),
        "its attention is not causal": not known.causal,
        f"{known.name or 'it'} is a mixture of experts": any(known.experts),
        f"{known.name} has latent attention (MLA)": known.latent,
        "its weights are 4-bit": bool(getattr(cfg, "load_in_4bit", False)),
        f"its weights are quantised ({packed})": packed is not None,
        f"{known.name or 'it'} has attention sinks": known.sinks,
        "it scales queries by log n": bool(getattr(cfg, "use_logn_attn", False)),
        "it rescales rotary embeddings": bool(getattr(cfg, "use_dynamic_ntk_rope", False)),
        f"its rotary embedding ({known.length_dependent}) depends on the prompt's length": (
            known.length_dependent is not None
        ),
        f"{known.name} scales what its layers write": known.residual_scale != 1.0,
        f"{known.name} adds ALiBi and rotary positions in its own way": _falcon_alibi(model),
        "some of its weights are offloaded, to come when a layer runs": any(
            p.is_meta for p in model.parameters()
        ),
        f"activation {known.act_fn!r} is not known to it": not cfg.attn_only
        and known.act_fn not in ACTIVATIONS,
        f"position embedding {cfg.positional_embedding_type!r} is not known to it": (
            cfg.positional_embedding_type not in ("standard", "rotary", "alibi", "none")
        ),
        "compatibility mode is off (model.enable_compatibility_mode())": (
            getattr(model, "compatibility_mode", True) is False
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def weights(model: Model) -> Weights:
    """References to a model's weights; raises AttributeError where the model lacks an expected part.

    What they compute is the model's own function only where the model is laid out as expected: compare logits
    before they are trusted (interp.engine). Blocks may lie on several devices, each on one; the small tensors
    at both ends of the model are copied to their embedding or unembedding where they lie elsewhere.
    """
    cfg, known = model.cfg, architecture(model)
    _require_matrices(model)
    tables: Tables = {}
    start, end = model.W_E.device, model.W_U.device
    return Weights(
        W_E=model.W_E,
        W_pos=beside(_position_table(model), start) if cfg.positional_embedding_type == "standard" else None,
        embed_norm=beside(embed_norm(model), start),
        blocks=tuple(_block(model, layer, known, tables) for layer in range(len(model.blocks))),
        final_norm=beside(final_norm(model), end),
        W_U=model.W_U,
        b_U=beside(getattr(model, "b_U", None), end),
        soft_cap=_cap(cfg, "output_logits_soft_cap"),
        embed_scale=known.embed_scale,
    )


def attentions(model: Model) -> tuple[Attention, ...]:
    """The weights of attention alone, which a model may have in the expected form without the rest.

    Raises ValueError for latent attention, whose heads have no weights of their own.
    """
    known = architecture(model)
    _require_matrices(model)
    if known.latent:
        raise ValueError(
            f"{known.name} has latent attention (MLA), whose heads have no weights of their own. What needs "
            "none takes the model: attn_out, heads=False."
        )
    tables: Tables = {}
    return tuple(_attention(model, layer, known, tables) for layer in range(len(model.blocks)))


def _require_matrices(model: Model) -> None:
    """Raise NotLaidOut for weights in fewer bits: read as matrices they would be other numbers."""
    if packed := quantised(model):
        raise NotLaidOut(
            f"its weights are quantised ({packed}), and are run by the model's own modules alone"
        )


def layer_with_same_weight(model: Model, layer: int, part: str) -> int | None:
    """Another layer whose output matrix is the very tensor of this one's; part: "attn" or "mlp"."""
    name = "W_O" if part == "attn" else "W_out"
    own = getattr(getattr(model.blocks[layer], part, None), name, None)
    for other, block in enumerate(model.blocks):
        weight = getattr(getattr(block, part, None), name, None)
        if other == layer or not isinstance(own, Tensor) or not isinstance(weight, Tensor):
            continue
        if own.data_ptr() == weight.data_ptr():
            return other
    return None


def _falcon_alibi(model: Model) -> bool:
    return getattr(transformers_config(model), "model_type", "") == "falcon" and bool(
        getattr(transformers_config(model), "alibi", False)
    )


def _position_table(model: Model) -> Tensor:
    """HookedTransformer's pos_embed holds `W_pos`; a bridge's an embedding, whose first rows OPT skips."""
    table = first_of(model.pos_embed, "W_pos", "weight")
    return table[-model.cfg.n_ctx :]


def _cap(cfg: Any, name: str) -> float:
    return float(getattr(cfg, name, None) or -1.0)


def _block(model: Model, layer: int, known: Architecture, tables: Tables) -> Block:
    cfg, block = model.cfg, model.blocks[layer]
    norm = block_norms(model, block, known)
    whole = Block(
        attn=_attention(model, layer, known, tables),
        mlp=None if cfg.attn_only else _mlp(block.mlp, cfg, known, norm["mlp"], norm["mlp_out"]),
        attn_norm=norm["attn"],
        attn_out_norm=norm["attn_out"],
        parallel=bool(getattr(cfg, "parallel_attn_mlp", False)),
    )
    if len(found := {each.device for each in tensors(whole)}) > 1:
        raise NotLaidOut(
            f"block {layer} lies on several devices ({', '.join(sorted(map(str, found)))}), and must on one"
        )
    return whole


def _attention(model: Model, layer: int, known: Architecture, tables: Tables) -> Attention:
    cfg, attn = model.cfg, model.blocks[layer].attn
    turns = cfg.positional_embedding_type == "rotary"
    grouped = hasattr(attn, "_W_K") and not getattr(cfg, "ungroup_grouped_query_attention", False)
    own = "_" if grouped else ""  # the plain names repeat each key-value head for its group
    W_Q, W_O, W_K, W_V = _by_head(model, layer, "W_Q", "W_O", f"{own}W_K", f"{own}W_V")
    return Attention(
        W_Q=W_Q,
        W_O=W_O,
        W_K=W_K,
        W_V=W_V,
        b_Q=getattr(attn, "b_Q", None),
        b_K=getattr(attn, f"{own}b_K", None),
        b_V=getattr(attn, f"{own}b_V", None),
        b_O=getattr(attn, "b_O", None),
        scale=_scale(attn, cfg),
        soft_cap=_cap(cfg, "attn_scores_soft_cap"),
        clip=_clip(model),
        window=known.windows[layer],
        q_norm=read_norm(getattr(attn, "q_norm", None), cfg, rms=True),
        k_norm=read_norm(getattr(attn, "k_norm", None), cfg, rms=True),
        whole_norm=known.whole_qk_norm,
        rotary=_rotary(model, layer, known, tables) if turns else None,
        alibi=_alibi_slopes(model, W_O.device) if cfg.positional_embedding_type == "alibi" else None,
    )


def _by_head(model: Model, layer: int, *names: str) -> list[Tensor]:
    """Matrices of attention by head; NotLaidOut where a layer's heads have a size of their own (Gemma 4)."""
    attn, cfg = model.blocks[layer].attn, model.cfg
    try:
        return [getattr(attn, name) for name in names]
    except ValueError as error:
        raise NotLaidOut(
            f"attention weights of layer {layer} are not those of {cfg.n_heads} heads of {cfg.d_head}, "
            "as cfg has it. What needs no matrix of a head takes the model: attn_out, heads=False"
        ) from error


def _scale(attn: Any, cfg: Any) -> float:
    """What scores are divided by; the transformers module of a bridge holds one over it."""
    scaling = first_of(inner(attn), "scaling", "inv_norm_factor", "softmax_scale")
    if inner(attn) is not attn and isinstance(scaling, float):
        return 1 / scaling
    if type(inner(attn)).__name__ == "GPTNeoSelfAttention" or "GPTNeoAttention" in type(inner(attn)).__name__:
        return 1.0
    if _is_native(attn):
        return float(inner(attn).scale)
    scale = getattr(attn, "attn_scale", None)
    if not isinstance(scale, (int, float)):
        scale = cfg.attn_scale if cfg.attn_scale > 0 else cfg.d_head**0.5
    return float(scale)


def _is_native(attn: Any) -> bool:
    """Whether it is attention of TransformerLens's own model (`boot_native`)."""
    return any(kind.__name__ == "NativeAttention" for kind in type(inner(attn)).__mro__)


def _clip(model: Model) -> float | None:
    clip = getattr(transformers_config(model), "clip_qkv", None) or getattr(model.cfg, "clip_qkv", None)
    return None if clip is None else float(clip)


def _mlp(mlp: Any, cfg: Any, known: Architecture, norm: Norm | None, out_norm: Norm | None) -> MLP:
    gated = getattr(mlp, "W_gate", None) is not None if inner(mlp) is not mlp else cfg.gated_mlp
    before = [getattr(mlp, name, None) for name in ("b_in", "b_gate")] if inner(mlp) is not mlp else []
    if gated and any(bias is not None and bool(bias.any()) for bias in before):
        raise NotLaidOut("a gated MLP has biases before its activation")
    return MLP(
        W_in=mlp.W_in,
        W_gate=mlp.W_gate if gated else None,
        W_out=mlp.W_out,
        b_in=None if gated and before else getattr(mlp, "b_in", None),
        b_out=getattr(mlp, "b_out", None),
        act=ACTIVATIONS[str(known.act_fn)],
        norm=norm,
        out_norm=out_norm,
    )


def _alibi_slopes(model: Model, device: torch.device) -> Tensor:
    """Slopes by head: powers of 2^(-8 / n); on a bridge also between them for other n."""
    n = model.cfg.n_heads
    near = n if transformers_config(model) is None else 2 ** (n.bit_length() - 1)
    slopes = [2 ** (-8 / near * (head + 1)) for head in range(near)]
    slopes += [2 ** (-4 / near * (2 * head + 1)) for head in range(n - near)]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


@torch.no_grad()
def _rotary(model: Model, layer: int, known: Architecture, tables: Tables) -> Rotary | None:
    """The layer's tables, asked of the module that makes them, on a bridge inside the transformers model.

    tables: those that a module outside of the layers has made; layers that turn alike share them.
    """
    attn = model.blocks[layer].attn
    if hasattr(attn, "rotary_sin"):  # HookedTransformer
        return Rotary(attn.rotary_sin, attn.rotary_cos, bool(model.cfg.rotary_adjacent_pairs))
    if _is_native(attn):
        made = inner(attn).rotary
        return Rotary(made.sin_cached.to(attn.W_O), made.cos_cached.to(attn.W_O), adjacent=True)
    if (table := _pair_table(model, attn)) is not None:
        sin, cos = table.to(attn.W_O).chunk(2, -1)
        return Rotary(sin.repeat_interleave(2, -1), cos.repeat_interleave(2, -1), adjacent=True)
    module = inner(getattr(model, "rotary_emb", None))
    if module is None or known.length_dependent or not _rotates(model, layer, known):
        return None
    config = transformers_config(model)
    kinds = getattr(config, "layer_types", None)
    options = {}
    if "layer_type" in inspect.signature(module.forward).parameters and kinds:
        options = {"layer_type": kinds[layer]}
    elif known.windows[layer] is not None and hasattr(vars(model)["original_model"], "rotary_emb_local"):
        module = vars(model)["original_model"].rotary_emb_local
    kind, device = options.get("layer_type"), attn.W_O.device
    key = id(module), kind, device
    if key not in tables:
        at_hand = next((made for at, made in tables.items() if at[:2] == key[:2]), None)
        tables[key] = beside(at_hand or _tables(model, module, options, known), device)
    return tables[key]


def _pair_table(model: Model, attn: Any) -> Tensor | None:
    """Sine and cosine of each pair by position, as GPT-J has them.

    They are in every attention, and from transformers 5.24 on in one module of the whole.
    """
    whole = getattr(vars(model).get("original_model"), "transformer", None)
    places = (inner(attn), getattr(whole, "rotary_emb", None))
    tables = (getattr(each, "embed_positions", None) for each in places)
    return next((table for table in tables if table is not None), None)


def _tables(model: Model, module: Any, options: dict[str, Any], known: Architecture) -> Rotary:
    """What a module of transformers turns every position of the context by."""
    pos = torch.arange(model.cfg.n_ctx, device=model.W_E.device)[None]
    cos, sin = (
        table[0].clone() for table in module(model.W_E[:1, None], pos, **options)
    )  # [n_ctx, rotary_dim]
    if getattr(model.cfg, "rotary_adjacent_pairs", False):  # GLM: the tables come in the other layout
        half = cos.shape[-1] // 2
        cos, sin = (table[:, :half].repeat_interleave(2, -1) for table in (cos, sin))
    return Rotary(sin, cos, adjacent=known.interleaved)


def _rotates(model: Model, layer: int, known: Architecture) -> bool:
    """Whether a layer has positions: SmolLM 3 leaves them out of some, Cohere 2 of those without window."""
    if known.name == "Cohere2ForCausalLM":
        return known.windows[layer] is not None
    return bool(getattr(inner(model.blocks[layer].attn), "use_rope", True))
