"""Facts about a model, the same for both TransformerLens classes.

`HookedTransformer` (3.9) and `TransformerBridge` (3.9 in part, 4.x) agree on hook names and on most of
`cfg`; what differs is settled here, in `_weights.py` and in `hook_points.py`, and nowhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.places import AXES

Model = Any  # HookedTransformer | TransformerBridge: neither class exists in every release

POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")  # these norm what a sublayer writes, not what it reads
WHOLE_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")


@dataclass(frozen=True)
class Anatomy:
    """The sizes and switches of a model that the methods need."""

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    attn_only: bool
    parallel: bool
    causal: bool
    whole_qk_norm: bool  # queries and keys of all heads are normed together (OLMo)
    post_norm: bool  # a norm stands between what a sublayer writes and the stream (Gemma 2 and 3, OLMo 2)
    dtype: torch.dtype
    device: torch.device
    name: str

    def sites(self) -> tuple[str, ...]:
        """The sites that this model has."""
        missing = set()
        if self.attn_only:
            missing |= {"resid_mid", "mlp_out", "post"}
        if self.parallel:
            missing |= {"resid_mid"}
        return tuple(site for site in AXES if site not in missing)

    def heads(self, site: str) -> int:
        """Heads at a site: key-value heads for `k` and `v` under grouped-query attention."""
        return self.n_key_value_heads if site in ("k", "v") else self.n_heads

    def size(self, site: str, axis: str, n_pos: int) -> int:
        """Length of one axis of a site, for prompts of `n_pos` tokens."""
        return {"head": self.heads(site), "neuron": self.d_mlp}.get(axis, n_pos)


def anatomy(model: Model) -> Anatomy:
    """Read the facts of a TransformerLens model. No forward pass, nothing changed.

    Raises ValueError for something that is not a TransformerLens model.
    """
    cfg = getattr(model, "cfg", None)
    if cfg is None or not hasattr(model, "hook_dict"):
        raise ValueError(
            f"expected a TransformerLens model (HookedTransformer or TransformerBridge), got "
            f"{type(model).__name__}. Load one with interp.load(...)."
        )
    grouped = cfg.n_key_value_heads if not getattr(cfg, "ungroup_grouped_query_attention", False) else None
    parameter = next(model.parameters())
    return Anatomy(
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_key_value_heads=grouped or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp or 0,
        d_vocab=cfg.d_vocab_out if getattr(cfg, "d_vocab_out", -1) > 0 else cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        attn_only=bool(cfg.attn_only),
        parallel=bool(getattr(cfg, "parallel_attn_mlp", False)),
        causal=getattr(cfg, "attention_dir", "causal") == "causal",
        whole_qk_norm=getattr(cfg, "original_architecture", None) in WHOLE_QK_NORM,
        post_norm=_norms_its_writes(model),
        dtype=parameter.dtype,
        device=parameter.device,
        name=str(cfg.model_name),
    )


def _norms_its_writes(model: Model) -> bool:
    """Whether some block norms what its attention or MLP adds to the stream."""
    if model.cfg.normalization_type is None:
        return False
    if getattr(model.cfg, "original_architecture", None) in POST_NORM:
        return True
    return any(hasattr(block, name) for block in model.blocks for name in ("ln1_post", "ln2_post"))


def logits(model: Model, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "prompt pos vocab"]:
    """One plain forward pass, attached hooks included.

    Padding is always on the right and never masked: attention is causal, so what a pad token computes
    reaches no real position. (With `padding_side="left"` TransformerLens would mask every token whose id
    is the pad id.)
    """
    takes_padding_side = type(model).__name__ == "HookedTransformer" and model.tokenizer is not None
    return model(tokens, padding_side="right") if takes_padding_side else model(tokens)


def has_hooks(model: Model) -> bool:
    """Whether any hook of the user's is attached."""
    return any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def model_fingerprint(model: Model) -> str:
    """sha256 over the names, shapes and a sample of the values of all parameters; device-independent."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
