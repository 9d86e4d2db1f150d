"""The forward pass by a model's weights, with taps where something is read or changed.

The loop over blocks stands here, once. Its values are those of the model under hooks (`trust.py` proves it),
without the time that TransformerLens spends on hook points (benchmarks/steering.py). Passes in which runs
join on the way, the wavefront of patching, run the halves of the block themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine import block as B
from interp.models.parts import Block, Weights

Taps = Mapping[tuple[str, int], Callable[[Tensor], Tensor]]  # by site and layer, of [run, pos, ...]
SCORES = "attn_scores"  # a tap at masked scores [run, head, query, key], asked for by name alone
Keep = Callable[[int, Tensor, Tensor], object]  # layer, finished keys and values [run, pos, kv head, d_head]


def through_blocks(
    weights: Weights, x: Tensor, attend: B.Attend, tap: B.Tap, start: int = 0, stop: int | None = None
) -> Tensor:
    """The stream [row, d_model] before block `stop` (None: after the last), from that before `start`."""
    for layer, block in enumerate(weights.blocks[start:stop], start):
        x = B.through_attention(block, layer, x, attend, tap)
        x = B.through_mlp(block, layer, x, tap)
    return x


def forward(
    weights: Weights,
    x: Float[Tensor, "run pos d_model"],
    start: int = 0,
    taps: Taps | None = None,
    attend: B.Attend | None = None,
    fused: bool = False,
    stop: int | None = None,
) -> Float[Tensor, "run pos d_model"]:
    """The stream before block `stop` (None: after the last), from the stream before block `start`.

    taps see the activations [run, pos, ...] at their site and layer (patterns and `SCORES` [run, head, dst,
    src]), and say what to go on with. attend: by default each run attends to itself, from position 0 on.
    fused: without a pattern where no tap wants it.
    """
    size, taps = (x.shape[0], x.shape[1]), taps or {}
    if attend is None:
        scored = [layer for site, layer in taps if site == SCORES]
        layers = range(len(weights.blocks)) if fused else ()
        alone = [layer for layer in layers if ("pattern", layer) not in taps and layer not in scored]
        attend = whole_runs(size, fused=alone, scored=scored)

    def tap(site: str, layer: int, tensor: Tensor, group: B.Group | None = None) -> Tensor:
        act = taps.get((site, layer))
        if act is None:
            return tensor
        by_pair = group is not None or site == SCORES
        return act(tensor) if by_pair else act(tensor.unflatten(0, size)).flatten(0, 1)

    return through_blocks(weights, x.flatten(0, 1), attend, tap, start, stop).unflatten(0, size)


def whole_runs(
    size: tuple[int, int],
    keep: Keep | None = None,
    fused: Container[int] = (),
    scored: Container[int] = (),
) -> B.Attend:
    """Attention of whole runs to themselves; size: (runs, positions). `keep` gets keys and values.

    fused: layers whose pattern nobody asks for; where they can do without, it is never made. scored: layers
    whose scores are tapped.
    """
    n, n_pos = size

    @cache
    def numbers(device: torch.device) -> tuple[Tensor, B.Group, Tensor]:
        pos, runs = torch.arange(n_pos, device=device), torch.arange(n, device=device)
        rows = torch.arange(n * n_pos, device=device).view(n, n_pos)
        return pos, B.Group(0, n_pos, runs, rows, rows, pos, runs), pos.repeat(n)

    def attend(block: Block, layer: int, x: Tensor, tap: B.Tap) -> Tensor:
        attn, h = block.attn, B.normed(block.attn_norm, x)
        pos, group, every = numbers(x.device)
        q, k, v = (part.unflatten(0, size) for part in B.qkv(attn, layer, (h, every), (h, every), tap))
        if keep is not None:
            keep(layer, k, v)
        if layer in fused and attn.fused:
            z = B.fused(attn, q, k, v)
        else:
            scores = B.scores(attn, q, k, pos)
            scores = tap(SCORES, layer, scores) if layer in scored else scores
            pattern = tap("pattern", layer, attn.weigh(scores), group)
            z = B.mix(attn.factor(pattern), v)
        return tap("z", layer, z.flatten(0, 1))

    return attend


def unembed(weights: Weights, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Logits of the final stream."""
    return B.unembed(weights, x, weights.W_U, weights.b_U)
