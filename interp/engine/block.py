"""The block of a transformer, written once: patching, circuits, steering and readouts all run this one.

A row is one position of one run, and rows stand in any order: norms, projections and the MLP treat them
alike, in one large product. Only attention looks at runs; it works by group, a group being the runs that
start and stop at the same positions, and reads what lies before the start from the base run's keys and
values.

What differs between passes is handed in:

- `tap(site, layer, tensor, group)` sees every activation under its TransformerLens name, and of the MLP what
  it reads (before its norm) as "mlp_in", its pre-activations as "pre" and the other factor of a gated one as
  "linear"; it returns what to go on with;
- `attend(block, layer, stream, tap)` gives attention's z: which rows attend to which, and what the readers of
  attention see.

Where gradients are on, slopes pass through everything but the weights of projections: nothing of the size of
a weight is made or kept for the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.engine import thin
from interp.models.parts import MLP, Attention, Block, Norm, Weights

Tap = Callable[..., Tensor]
Attend = Callable[[Block, int, Tensor, Tap], Tensor]  # the stream [row, d_model] -> z [row, head, d_head]
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "post")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that cover the positions start..stop-1."""

    start: int
    stop: int
    prompts: Tensor  # [run]: whose base run lies before the start
    rows: Tensor  # [run, stop - start]: rows of keys and values
    queries: Tensor  # [run, query]: rows of queries
    query_pos: Tensor  # [query]: their absolute positions
    runs: Tensor  # [run]: index of each run in the pass


@dataclass(frozen=True, eq=False)
class Past:
    """Keys (normed and rotated) and values of the base runs: [prompt, pos, kv head, d_head]."""

    k: Tensor
    v: Tensor


def through_attention(
    block: Block, layer: int, x: Tensor, attend: Attend, tap: Tap, rows: Tensor | None = None
) -> Tensor:
    """The stream after attention, from that before the block; in a parallel block after the MLP as well.

    rows: those of which `attend` gives z, and which go on; None for all.
    """
    x = tap("resid_pre", layer, x.to(block.device))
    z = attend(block, layer, x, tap)
    x = x if rows is None else x[rows]
    middle = x + tap("attn_out", layer, attn_write(block, z))
    if block.mlp is None:
        return middle
    if block.parallel:
        return middle + mlp(block.mlp, layer, x, tap)
    return tap("resid_mid", layer, middle)


def through_mlp(block: Block, layer: int, x: Tensor, tap: Tap) -> Tensor:
    """The stream after the block, from what `through_attention` gives."""
    if block.mlp is not None and not block.parallel:
        x = x + mlp(block.mlp, layer, x, tap)
    return tap("resid_post", layer, x)


def normed(norm: Norm | None, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)


def project(W: Tensor, b: Tensor | None, x: Tensor) -> Tensor:
    """x [row, d_model] through W [head, d_model, d_head], no copy of W: [row, head, d_head]."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Projection.apply(x, W, b).transpose(0, 1)  # type: ignore[union-attr]
    return _by_head(x, W, b).transpose(0, 1)


def _by_head(x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    wide = x.expand(W.shape[0], *x.shape)
    if lower(W, x):
        out = torch.bmm(wide.to(W.dtype), W).to(x.dtype)
        return out if b is None else out.add_(b[:, None])
    return torch.bmm(wide, W) if b is None else torch.baddbmm(b[:, None], wide, W)


def times(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """x W + b. Weights of lower precision multiply in it; what comes out is as wide as what went in."""
    if lower(W, x):
        out = (x.to(W.dtype) @ W).to(x.dtype)
        return out if b is None else out.add_(b)
    if thin.few(x, W):
        return thin.times(x, W, b)
    return x @ W if b is None else torch.addmm(b, x, W)


def lower(W: Tensor, x: Tensor) -> bool:
    """Whether weights were made less precise than the stream (`engine.precision`)."""
    return W.dtype == torch.bfloat16 and x.dtype == torch.float32


class _Projection(torch.autograd.Function):
    """x [row, d_model] through W, [head, row, d_head]; back to x head by head, without a copy for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(W)
        return _by_head(x, W, b)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, Tensor | None]:
        (slope,), (W,) = slopes, ctx.saved_tensors
        out = slope[0] @ W[0].T
        for mine, weight in zip(slope[1:], W[1:]):
            out.addmm_(mine, weight.T)
        return out, None, slope.sum(1) if ctx.needs_input_grad[2] else None


def finish(attn: Attention, x: Tensor, pos: Tensor, norm: Norm | None, turn: Tensor | None = None) -> Tensor:
    """From what hook_q or hook_k sees to what the scores use: norm, clip, rotation; turn: its matrix."""
    if norm is not None:
        x = norm(x.flatten(1)).view(x.shape) if attn.whole_norm else norm(x)
    if attn.clip is not None:
        x = x.clamp(-attn.clip, attn.clip)
    if turn is not None:
        return x @ turn
    return x if attn.rotary is None else attn.rotary(x, pos)


def turned(attn: Attention, x: Tensor) -> Tensor:
    """Whole runs x [run, pos, head, d_head] under the rotation alone."""
    if attn.rotary is None:
        return x
    pos = torch.arange(x.shape[1], device=x.device).repeat(x.shape[0])
    return attn.rotary(x.flatten(0, 1), pos).view(x.shape)


def finish_runs(attn: Attention, x: Tensor, norm: Norm | None) -> Tensor:
    """`finish` of whole runs: x [run, pos, head, d_head]."""
    pos = torch.arange(x.shape[1], device=x.device).repeat(x.shape[0])
    return finish(attn, x.flatten(0, 1), pos, norm).view(x.shape)


def value(attn: Attention, v: Tensor) -> Tensor:
    return v if attn.clip is None else v.clamp(-attn.clip, attn.clip)


def products(attn: Attention, q: Tensor, k: Tensor) -> Tensor:
    """q [run, query, head, d_head] · k [run, key, kv head, d_head] / scale: [run, head, query, key]."""
    m, kv = q.shape[1], k.shape[2]
    q = rearrange(q, "run query (kv share) d -> run kv (share query) d", kv=kv)
    k = rearrange(k, "run key kv d -> run kv d key")
    return rearrange(q @ k, "run kv (share query) key -> run (kv share) query key", query=m) / attn.scale


def scores(attn: Attention, q: Tensor, k: Tensor, query_pos: Tensor) -> Tensor:
    """Masked attention scores of q [run, query, head, d_head] on k [run, key, kv head, d_head].

    `query_pos` is [query], or [run, 1, query] where the queries of each run stand elsewhere.
    """
    return masked(attn, products(attn, q, k), query_pos)


def masked(attn: Attention, products: Tensor, query_pos: Tensor) -> Tensor:
    """From q · k / scale [run, head, query, key] to attention scores: cap, position bias, mask."""
    out = biased(attn, products, query_pos)
    gap = query_pos[..., None] - torch.arange(out.shape[-1], device=out.device)
    hidden = gap < 0 if attn.window is None else (gap < 0) | (gap >= attn.window)
    return out.masked_fill(hidden, -torch.inf)


def biased(attn: Attention, products: Tensor, query_pos: Tensor) -> Tensor:
    """From q · k / scale [run, head, query, key] to scores that are not masked: cap and position bias."""
    out = attn.soft_cap * torch.tanh(products / attn.soft_cap) if attn.soft_cap > 0 else products
    if attn.alibi is None:
        return out
    gap = query_pos[..., None] - torch.arange(out.shape[-1], device=out.device)  # [query, key]
    return out - (attn.alibi[:, None, None] * gap.clamp(min=0)).to(out.dtype)


def mix(pattern: Tensor, v: Tensor) -> Tensor:
    """Pattern [run, head, query, key] times v [run, key, kv head, d_head]: z [run, query, head, d_head]."""
    m, kv = pattern.shape[2], v.shape[2]
    weights = rearrange(pattern, "run (kv share) query key -> run kv (share query) key", kv=kv)
    v = rearrange(v, "run key kv d -> run kv key d")
    return rearrange(weights @ v, "run kv (share query) d -> run query (kv share) d", query=m)


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, query_pos: Tensor) -> tuple[Tensor, Tensor]:
    """Pattern and z of whole runs, from finished q, k and v."""
    pattern = attn.weigh(scores(attn, q, k, query_pos))
    return pattern, mix(pattern, v)


def fused(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """z of whole runs by a kernel that keeps no pattern; q, k and v finished [run, pos, head, d_head]."""
    share, bias = q.shape[2] // k.shape[2], _bias(attn, q)
    k, v = (part if share == 1 else part.repeat_interleave(share, 2) for part in (k, v))
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None, scale=1 / attn.scale
    )
    return out.transpose(1, 2)


def _bias(attn: Attention, q: Tensor) -> Tensor | None:
    """What is added to the scores of whole runs, where that is more than a causal mask."""
    if attn.window is None and attn.alibi is None:
        return None
    pos = torch.arange(q.shape[1], device=q.device)
    heads = 1 if attn.alibi is None else len(attn.alibi)
    return masked(attn, q.new_zeros(1, heads, len(pos), len(pos)), pos)


def attention(
    attn: Attention,
    layer: int,
    queries: tuple[Tensor, Tensor],
    keys: tuple[Tensor, Tensor],
    groups: list[Group],
    past: Past | None,
    tap: Tap,
) -> tuple[Tensor, Tensor, Tensor]:
    """z [query row, head, d_head] and the finished keys and values of the key rows.

    `queries` and `keys` are each (normed input [row, d_model], absolute position [row]).
    """
    q, k, v = qkv(attn, layer, queries, keys, tap)
    z = torch.empty_like(q, memory_format=torch.contiguous_format)
    for group in groups:
        group_k, group_v = k[group.rows], v[group.rows]  # [run, stop - start, kv head, d_head]
        if past is not None and group.start > 0:
            group_k = torch.cat((past.k[group.prompts, : group.start], group_k), 1)
            group_v = torch.cat((past.v[group.prompts, : group.start], group_v), 1)
        pattern = attn.weigh(scores(attn, q[group.queries], group_k, group.query_pos))
        z[group.queries] = mix(attn.factor(tap("pattern", layer, pattern, group)), group_v)
    return tap("z", layer, z), k, v


def qkv(
    attn: Attention,
    layer: int,
    queries: tuple[Tensor, Tensor],
    keys: tuple[Tensor, Tensor],
    tap: Tap,
    turn: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Finished queries, keys and values [row, head, d_head]; `queries` and `keys` as in `attention`.

    turn: the matrix [d_head, d_head], or one for each row, by which the rotation multiplies, if at hand.
    """
    q = attn.factor(tap("q", layer, project(attn.W_Q, attn.b_Q, queries[0])))
    k = attn.factor(tap("k", layer, project(attn.W_K, attn.b_K, keys[0])))
    v = value(attn, attn.factor(tap("v", layer, project(attn.W_V, attn.b_V, keys[0]))))
    q, k = finish(attn, q, queries[1], attn.q_norm, turn), finish(attn, k, keys[1], attn.k_norm, turn)
    return q, k, v


def attn_write(block: Block, z: Tensor) -> Tensor:
    """What attention adds to the stream, from z [row, head, d_head]."""
    attn = block.attn
    flat, W = z.reshape(z.shape[0], -1), attn.W_O.reshape(-1, attn.W_O.shape[-1])
    return normed(block.attn_out_norm, times(flat, W, attn.b_O))


def head_writes(
    W_O: Float[Tensor, "head d_head d_model"],
    z: Float[Tensor, "*row head d_head"],
    out: Float[Tensor, "head *row d_model"] | None = None,
) -> Float[Tensor, "head *row d_model"]:
    """What each head adds to the stream, without the bias that they share. out: where to put it."""
    flat = z.flatten(0, -3).transpose(0, 1)  # [head, row, d_head]
    if out is None:
        return torch.bmm(flat, W_O).unflatten(1, z.shape[:-2])
    torch.bmm(flat, W_O, out=out.flatten(1, -2))
    return out


def unembed(weights: Weights, stream: Tensor, W_U: Tensor, b_U: Tensor | None) -> Tensor:
    """Logits of the columns W_U [d_model, column] for final stream rows [row, d_model]."""
    x = normed(weights.final_norm, stream.to(W_U.device))
    return weights.capped(times(x, W_U, b_U))


def mlp_inner(mlp: MLP, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The MLP's pre-activations [row, neuron] and, if it is gated, the other factor."""
    if mlp.W_gate is not None:
        return times(x, mlp.W_gate), times(x, mlp.W_in)
    return times(x, mlp.W_in, mlp.b_in), None


def mlp_hidden(mlp: MLP, x: Tensor) -> Tensor:
    """The MLP's activations after the nonlinearity (hook_post): [row, neuron]."""
    return mlp.hidden(*mlp_inner(mlp, x))


def mlp_write(mlp: MLP, hidden: Tensor) -> Tensor:
    """What the MLP adds to the stream, from its hidden activations [row, neuron]."""
    return normed(mlp.out_norm, times(hidden, mlp.W_out, mlp.b_out))


def mlp(mlp: MLP, layer: int, x: Tensor, tap: Tap) -> Tensor:
    """The MLP's write for stream rows x [row, d_model]."""
    pre, linear = mlp_inner(mlp, normed(mlp.norm, tap("mlp_in", layer, x)))
    pre, linear = tap("pre", layer, pre), None if linear is None else tap("linear", layer, linear)
    hidden = tap("post", layer, mlp.hidden(pre, linear))
    return tap("mlp_out", layer, mlp_write(mlp, hidden))
