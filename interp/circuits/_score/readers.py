"""The slope of the metric in what every reader sees of the stream, before the norm, layer by layer.

From the slope g_q in a head's query, the slope in the normed input is W_Q g_q; the norm's own slope then
takes it back to the stream. Keys and values likewise, MLPs through W_in and W_gate. Under
grouped-query attention a key or value is one reader, and its slope the sum over the heads that use it.

A norm's slope is applied backwards in closed form. For x centred (LayerNorm) or not (RMSNorm), s =
sqrt(mean(x²) + eps), u = x / s, gain w, and C the centring:

| slopes              | in the input                                                                  |
|---------------------|-------------------------------------------------------------------------------|
| gradient            | C (g w − u mean(u g w)) / s                                                   |
| LN-rule, s constant | C (g w) / s                                                                   |
| secant              | C (h g w + k t mean(t g w)), h = mean of 1/s, t = x + x₁, k = −1/(2 s s₁ (s + s₁)) |

One call serves all readers of a layer, which share the norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits._graph import Spans
from interp.circuits._score.passes import Passed, Values, wide
from interp.models.parts import MLP, Norm, Weights


@dataclass(frozen=True, eq=False)
class Readers:
    """Some readers of a layer, the number of writers before them, and the slopes in what they see."""

    index: slice
    n_writers: int
    slope: Float[Tensor, "reader prompt pos d_model"]


def readers(
    weights: Weights, spans: Spans, run: Passed, metric: int, kind: str, other: Passed | None, span: slice
) -> Iterator[Readers]:
    """All readers that a metric, by number, depends on, at the positions of `span`.

    kind: how norms are taken back; other: the source run, for secant slopes.
    """
    slopes = run.slopes[metric]

    def back(norm: Norm | None, place: tuple[str, int], slope: Tensor) -> Tensor:
        far = None if other is None else wide(other.values[place][:, span])
        return pull_back(norm, wide(run.values[place][:, span]), slope, kind, far)

    for layer, block in enumerate(weights.blocks):
        attn, before = block.attn, spans.heads(layer).start
        for part, W in zip("qkv", (attn.W_Q, attn.W_K, attn.W_V)):
            if (slope := slopes.get((part, layer))) is not None:
                slope = back(block.attn_norm, ("resid_pre", layer), _through(W, wide(slope[:, span])))
                yield Readers(spans.part(layer, part), before, slope)
        if block.mlp is not None and ("pre", layer) in slopes:
            place = ("resid_pre" if block.parallel else "resid_mid", layer)
            index, n_writers = spans.mlp_reader(layer), before if block.parallel else spans.mlp(layer)
            slope = back(block.mlp.norm, place, _mlp(block.mlp, slopes, layer, span))
            yield Readers(slice(index, index + 1), n_writers, slope)
    last = wide(slopes["resid_post", len(weights.blocks) - 1][:, span])
    yield Readers(slice(spans.logits, spans.logits + 1), len(spans.graph.writers), last[None])


def _through(
    W: Float[Tensor, "head d_model d_head"], slope: Float[Tensor, "prompt pos head d_head"]
) -> Float[Tensor, "head prompt pos d_model"]:
    """Back through each head's own weights."""
    flat = slope.flatten(0, 1).transpose(0, 1)  # [head, prompt pos, d_head]
    return torch.bmm(flat, W.to(slope).transpose(1, 2)).unflatten(1, slope.shape[:2])


def _mlp(mlp: MLP, slopes: Values, layer: int, span: slice) -> Float[Tensor, "1 prompt pos d_model"]:
    """Back through W_in, or through W_gate and W_in of a gated MLP."""
    slope = wide(slopes["pre", layer][:, span])
    if mlp.W_gate is None:
        return (slope @ mlp.W_in.to(slope).T)[None]
    out = slope @ mlp.W_gate.to(slope).T
    if (linear := slopes.get(("linear", layer))) is not None:
        out = out + wide(linear[:, span]) @ mlp.W_in.to(slope).T
    return out[None]


KINDS = ("gradient", "frozen", "secant")


def pull_back(
    norm: Norm | None,
    x: Float[Tensor, "prompt pos d"],
    slope: Float[Tensor, "reader prompt pos d"],
    kind: str = "gradient",
    other: Float[Tensor, "prompt pos d"] | None = None,
) -> Float[Tensor, "reader prompt pos d"]:
    """The slope in what a norm reads, x, from the slope in what it gives. `other`: x of the source run."""
    if norm is None:
        return slope
    x, scale = _point(norm, x)
    if kind == "secant" and other is not None:
        slope = slope if norm.gain is None else slope * norm.gain
        out = _secant(x, scale, *_point(norm, other), slope)
    else:
        out = slope / scale
        out = out if norm.gain is None else out.mul_(norm.gain)
        if kind == "gradient":
            unit = x / scale
            mean = torch.einsum("rpnd,pnd->rpn", out, unit) / x.shape[-1]
            out.addcmul_(unit, mean[..., None], value=-1)
    return out.sub_(out.mean(-1, keepdim=True)) if norm.centred else out


def _secant(x: Tensor, scale: Tensor, other: Tensor, other_scale: Tensor, slope: Tensor) -> Tensor:
    inverse = (1 / scale + 1 / other_scale) / 2
    curve = -1 / (2 * scale * other_scale * (scale + other_scale))
    total = x + other
    return inverse * slope + curve * total * (total * slope).mean(-1, keepdim=True)


def _point(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """x as the norm scales it, and its scale."""
    x = x - x.mean(-1, keepdim=True) if norm.centred else x
    return x, (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
