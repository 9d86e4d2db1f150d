"""The norms of a model: what each module of it computes, whichever class wrote it.

The gain of a norm may be stored as w or as 1 + w (Gemma), its bias may be missing, and it may stand before a
sublayer or after it. All of that is measured or read at the module itself; None stands for no norm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.models._architecture import Architecture, Model, architecture, inner
from interp.models.parts import Norm


class NotLaidOut(AttributeError, ValueError):
    """A part of a model is not in a form that is known here."""


def stream_norms(model: Model) -> list[tuple[torch.nn.Module, Norm]]:
    """The modules of all norms that the stream passes, after the embedding, with what they compute."""
    names = ("ln1", "ln1_post", "ln2", "ln2_post")
    modules: list[Any] = [getattr(block, name, None) for block in model.blocks for name in names]
    norms = [(module, read_norm(module, model.cfg)) for module in modules]
    norms.append((getattr(model, "ln_final", None), _final(model)))
    return [(module, norm) for module, norm in norms if norm is not None]


def attn_out_norm(model: Model, block: Any) -> Norm | None:
    """The norm of what a block's attention writes, if there is one."""
    return block_norms(model, block, architecture(model))["attn_out"]


def final_norm(model: Model) -> Norm | None:
    """The norm before the unembedding; a scale of the logits (Cohere) is in its gain and bias."""
    norm, scale = _final(model), architecture(model).logit_scale
    if scale == 1.0 or norm is None:
        return norm
    gain = torch.ones_like(model.W_U[:, 0]) if norm.gain is None else norm.gain
    return replace(norm, gain=gain * scale, bias=None if norm.bias is None else norm.bias * scale)


def embed_norm(model: Model) -> Norm | None:
    """The norm of the embedding (Bloom): inside `embed`, or beside it on a bridge."""
    if hasattr(model, "embed_ln"):
        return read_norm(model.embed_ln, model.cfg)
    own = getattr(model.cfg, "post_embedding_ln", False)
    return read_norm(getattr(model.embed, "ln", None), model.cfg) if own else None


def _final(model: Model) -> Norm | None:
    return (
        read_norm(model.ln_final, model.cfg, rms=bool(model.cfg.final_rms))
        if hasattr(model, "ln_final")
        else None
    )


def block_norms(model: Model, block: Any, known: Architecture) -> dict[str, Norm | None]:
    """The norms of a block by what they stand before or after.

    A parallel block without a second norm gives its MLP what attention reads. OLMo 2 and 3 norm only what a
    sublayer writes: HookedTransformer calls those ln1 and ln2, a bridge ln1_post and ln2_post.
    """
    norm = {
        name: read_norm(getattr(block, name, None), model.cfg)
        for name in ("ln1", "ln2", "ln1_post", "ln2_post")
    }
    if known.norms_writes:
        return {
            "attn": None,
            "attn_out": norm["ln1_post"] or norm["ln1"],
            "mlp": None,
            "mlp_out": norm["ln2_post"] or norm["ln2"],
        }
    shared = norm["ln2"] is None and getattr(model.cfg, "parallel_attn_mlp", False)
    return {
        "attn": norm["ln1"],
        "attn_out": norm["ln1_post"],
        "mlp": norm["ln1"] if shared else norm["ln2"],
        "mlp_out": norm["ln2_post"],
    }


def read_norm(module: Any, cfg: Any, rms: bool = False) -> Norm | None:
    """What a norm's module computes; None where there is none."""
    if module is None or isinstance(inner(module), torch.nn.Identity) or cfg.normalization_type is None:
        return None
    kind = inner(module)
    if kind is not module and len(list(kind.children())):
        return _norm_by_head(kind)
    gain = first_of(module, "w", "weight")
    if type(kind).__name__.endswith("LayerNorm") and kind is not module:
        rms = False
    else:
        rms = rms or "RMS" in type(kind).__name__ or str(cfg.normalization_type).startswith("RMS")
    if gain is not None and kind is not module and _is_offset(kind, gain):
        gain = 1 + gain
    eps = first_of(kind, "eps", "variance_epsilon")
    bias = None if rms else first_of(module, "b", "bias")
    return Norm(not rms, float(cfg.eps if eps is None else eps), gain, bias)


def _norm_by_head(kind: Any) -> Norm:
    """One LayerNorm a head, of queries or keys (StableLM)."""
    norms = list(getattr(kind, "norms", ()))
    if not norms or any(type(norm) is not torch.nn.LayerNorm for norm in norms):
        raise NotLaidOut(f"{type(kind).__name__} is made of several norms")
    gain, bias = ([getattr(norm, name) for norm in norms] for name in ("weight", "bias"))
    return Norm(True, norms[0].eps, torch.stack(gain), None if bias[0] is None else torch.stack(bias))


@torch.no_grad()
def _is_offset(norm: torch.nn.Module, gain: Tensor) -> bool:
    """Whether a norm of transformers multiplies by 1 + gain, as Gemma's do: measured on ones."""
    x = torch.ones_like(gain)
    x[..., 1::2] = -1
    measured = (x * (norm(x) - norm(-x))).float() / 2
    return bool((measured - 1 - gain.float()).abs().mean() < (measured - gain.float()).abs().mean())


def first_of(module: Any, *names: str) -> Any:
    """The first of these attributes that is there and not None."""
    return next((value for name in names if (value := getattr(module, name, None)) is not None), None)
