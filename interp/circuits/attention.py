"""Attention of many circuits over the keys and values of one state, of which a few positions change.

The unchanged keys and values are never copied: circuits are folded into the queries (q · k and pattern · v
are then products with shared matrices), and the positions that change are put in afterwards.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine import block as B
from interp.models.parts import Attention

New = (
    tuple[np.ndarray, Tensor] | None
)  # which heads change, and their vectors [row, prompt, pos, head, d_head]


def new_z(
    attn: Attention,
    q: Float[Tensor, "row prompt query head d_head"],
    keys: tuple[Float[Tensor, "prompt key head d_head"], New],
    values: tuple[Float[Tensor, "prompt key head d_head"], New],
    query_pos: Int[Tensor, "prompt query"],
    window: Int[Tensor, "prompt pos"],
) -> Float[Tensor, "new_row prompt query head d_head"]:
    """z of some heads; `window` are the positions at which keys and values change.

    q may have one row for all circuits.
    """
    n = len(q)
    raw = B.products(attn, rearrange(q, "row prompt query head d -> prompt (row query) head d"), keys[0])
    raw = rearrange(raw, "prompt head (row query) key -> row prompt head query key", row=n)
    if keys[1] is not None:
        raw = _with_new_keys(attn, raw, q, keys[1], window)
    pos = query_pos.expand(len(raw), -1, -1)  # [row, prompt, query]
    pattern = B.masked(attn, raw.flatten(0, 1), pos.flatten(0, 1)[:, None]).softmax(-1)
    pattern = pattern.view(raw.shape)
    folded = rearrange(pattern, "row prompt head query key -> prompt head (row query) key")
    z = rearrange(
        B.mix(folded, values[0]), "prompt (row query) head d -> row prompt query head d", row=len(raw)
    )
    return z if values[1] is None else _with_new_values(z, pattern, values[0], values[1], window)


def _with_new_keys(
    attn: Attention, raw: Tensor, q: Tensor, new: tuple[np.ndarray, Tensor], window: Tensor
) -> Tensor:
    """raw [row, prompt, head, query, key] with the products of the keys that change."""
    heads, k = new
    raw = raw.expand(len(k), *raw.shape[1:]).clone()
    own = torch.einsum("rpqhd,rpwhd->rphqw", q[..., heads, :].expand(len(k), -1, -1, -1, -1), k) / attn.scale
    part = raw[:, :, heads]
    raw[:, :, heads] = part.scatter(-1, window[None, :, None, None].expand(own.shape), own)
    return raw


def _with_new_values(
    z: Tensor, pattern: Tensor, old: Tensor, new: tuple[np.ndarray, Tensor], window: Tensor
) -> Tensor:
    """z with what the pattern takes from the change of the values."""
    heads, v = new
    prompts = torch.arange(len(old), device=old.device)[:, None]
    change = v - old[prompts, window][:, :, heads]  # [row, prompt, pos, head, d_head]
    part = pattern[:, :, heads]
    seen = part.gather(-1, window[None, :, None, None].expand(*part.shape[:-1], window.shape[1]))
    seen = seen.expand(len(v), *seen.shape[1:])
    z = z.expand(len(v), *z.shape[1:]).clone()
    z[..., heads, :] += torch.einsum("rphqw,rpwhd->rpqhd", seen, change)
    return z


def only_heads(attn: Attention, heads: np.ndarray) -> Attention:
    """What scores need to know, for some heads."""
    return attn if attn.alibi is None else replace(attn, alibi=attn.alibi[heads])
