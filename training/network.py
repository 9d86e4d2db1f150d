"""A fast forward pass over parameters that already have HookedTransformer's names and shapes.

Training through HookedTransformer is slow on a CPU (an einsum per head weight, hooks, full attention
scores). Here the same function is written with fused attention, on a plain dict of parameters that is
the HookedTransformer's state dict: nothing is converted afterwards. Pre-norm, LayerNorm, learned
positions, gelu_new, untied unembedding without bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Parameters = dict[str, Tensor]
EPS = 1e-5


@dataclass(frozen=True)
class Sizes:
    """The shape of the model."""

    d_vocab: int
    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    d_head: int = 16
    d_mlp: int = 256
    n_ctx: int = 48


def initial(sizes: Sizes, seed: int) -> Parameters:
    """Normal weights of variance 1 / inputs, smaller where a layer writes; zero biases, unit gains."""
    generator = torch.Generator().manual_seed(seed)
    d, heads, inner = sizes.d_model, sizes.n_heads, sizes.d_head

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    read, write = 1 / math.sqrt(d), 1 / math.sqrt(2 * sizes.n_layers)
    parameters = {
        "embed.W_E": normal(sizes.d_vocab, d, std=0.5),
        "pos_embed.W_pos": normal(sizes.n_ctx, d, std=0.5),
    }
    for layer in range(sizes.n_layers):
        attn, mlp = f"blocks.{layer}.attn", f"blocks.{layer}.mlp"
        for norm in ("ln1", "ln2"):
            parameters |= _norm(f"blocks.{layer}.{norm}", d)
        for name in "QKV":
            parameters[f"{attn}.W_{name}"] = normal(heads, d, inner, std=read)
            parameters[f"{attn}.b_{name}"] = torch.zeros(heads, inner)
        parameters[f"{attn}.W_O"] = normal(heads, inner, d, std=write / math.sqrt(heads * inner))
        parameters[f"{attn}.b_O"] = torch.zeros(d)
        parameters[f"{mlp}.W_in"] = normal(d, sizes.d_mlp, std=read)
        parameters[f"{mlp}.b_in"] = torch.zeros(sizes.d_mlp)
        parameters[f"{mlp}.W_out"] = normal(sizes.d_mlp, d, std=write / math.sqrt(sizes.d_mlp))
        parameters[f"{mlp}.b_out"] = torch.zeros(d)
    parameters |= _norm("ln_final", d)
    parameters["unembed.W_U"] = normal(d, sizes.d_vocab, std=read)
    return {name: value.requires_grad_() for name, value in parameters.items()}


def _norm(name: str, width: int) -> Parameters:
    return {f"{name}.w": torch.ones(width), f"{name}.b": torch.zeros(width)}


def logits(p: Parameters, tokens: Int[Tensor, "row pos"]) -> Float[Tensor, "row pos vocab"]:
    """The forward pass."""
    x = p["embed.W_E"][tokens] + p["pos_embed.W_pos"][: tokens.shape[1]]
    layers = sum(name.endswith("attn.W_Q") for name in p)
    for layer in range(layers):
        x = x + _attention(p, f"blocks.{layer}", x)
        x = x + _mlp(p, f"blocks.{layer}", x)
    return _layer_norm(p, "ln_final", x) @ p["unembed.W_U"]


def _layer_norm(p: Parameters, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[f"{name}.w"], p[f"{name}.b"], EPS)


def _attention(p: Parameters, block: str, x: Tensor) -> Tensor:
    x = _layer_norm(p, f"{block}.ln1", x)
    W, b = (_joined(p, f"{block}.attn", kind) for kind in "Wb")
    heads = p[f"{block}.attn.W_Q"].shape[0]
    qkv = (x @ W + b).unflatten(-1, (3, heads, -1))  # (row, pos, 3, head, d_head)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (row, head, pos, d_head) each
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out = z.transpose(1, 2).flatten(2) @ p[f"{block}.attn.W_O"].flatten(0, 1)  # (row, pos, d_model)
    return out + p[f"{block}.attn.b_O"]


def _joined(p: Parameters, attn: str, kind: str) -> Tensor:
    """Query, key and value parameters of all heads side by side: (d_model, 3 · head · d_head)."""
    return torch.cat([p[f"{attn}.{kind}_{name}"].movedim(0, -2).flatten(-2) for name in "QKV"], -1)


def _mlp(p: Parameters, block: str, x: Tensor) -> Tensor:
    x = _layer_norm(p, f"{block}.ln2", x)
    hidden = F.gelu(x @ p[f"{block}.mlp.W_in"] + p[f"{block}.mlp.b_in"], approximate="tanh")
    return hidden @ p[f"{block}.mlp.W_out"] + p[f"{block}.mlp.b_out"]


def hooked_state(parameters: Parameters) -> Parameters:
    """The state dict that a HookedTransformer loads: ours, and a zero unembedding bias."""
    state = {name: value.detach().clone().contiguous() for name, value in parameters.items()}
    state["unembed.b_U"] = torch.zeros(state["unembed.W_U"].shape[1])
    return state


def hooked_config(sizes: Sizes, name: str) -> dict[str, object]:
    """The fields of the HookedTransformerConfig of this network."""
    shape = {key: getattr(sizes, key) for key in sizes.__dataclass_fields__}
    kind = {"act_fn": "gelu_new", "normalization_type": "LN", "positional_embedding_type": "standard"}
    return {"model_name": name, **shape, **kind, "eps": EPS, "attention_dir": "causal"}
