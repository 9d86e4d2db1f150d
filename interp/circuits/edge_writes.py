"""What every writer adds to the stream, and what of it an ablation changes: [writer, prompt, pos, d_model].

Heads go through z, a block of positions at a time: no layer keeps what each of its heads writes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.ablation import head_writes
from interp.circuits.edge_passes import INPUT, Passed, Place
from interp.circuits.spans import Spans
from interp.models.parts import Weights

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 3e-4}  # norms inside a bridge compute in float32


def written(
    weights: Weights, spans: Spans, activation: Callable[[Place], Tensor], rows: slice = slice(None)
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What writers make of activations (or of differences: the biases of attention are nobody's write).

    Writers outside `rows` are not computed.
    """
    first = activation(INPUT)
    wanted = range(len(spans.graph.writers))[rows]
    out = first.new_zeros(len(spans.graph.writers), *first.shape)
    if 0 in wanted:
        out[0] = first
    for layer, block in enumerate(weights.blocks):
        heads, mlp = spans.heads(layer), spans.mlp(layer)
        if heads.start in wanted:
            out[heads] = head_writes(block.attn.W_O.to(first), activation(("z", layer)))
        if block.mlp is not None and mlp in wanted:
            out[mlp] = activation(("mlp_out", layer))
    return out


def differences(
    weights: Weights,
    spans: Spans,
    base: Passed,
    source: Passed,
    constants: Tensor | None,
    first: Tensor,
    span: slice,
    rows: slice = slice(None),
) -> Float[Tensor, "writer prompt pos d_model"]:
    """What the ablation puts in place of each writer, less what it writes in the base run, float32 or better.

    first: the first position of each prompt at which the runs can differ; before it there is only rounding.
    """
    if constants is None:
        change = lambda at: wide(source.values[at][:, span]) - wide(base.values[at][:, span])  # noqa: E731
        out = written(weights, spans, change, rows)
    else:
        now = written(weights, spans, lambda at: wide(base.values[at][:, span]), rows)
        out = constants.to(now)[:, None, None] - now
    pos = torch.arange(span.start, span.stop, device=first.device)
    return out.mul_((pos >= first[:, None])[..., None])


@torch.no_grad()
def check_writes(weights: Weights, run: Passed, name: str) -> None:
    """Raise ValueError unless the heads of each layer and its bias add up to what attention writes."""
    for layer, block in enumerate(weights.blocks):
        z, out = wide(run.values["z", layer][:1]), wide(run.values["attn_out", layer])
        W_O = block.attn.W_O.to(z)
        found = z.flatten(2) @ W_O.flatten(0, 1)
        found = found if block.attn.b_O is None else found + block.attn.b_O
        gap = float(((found - out).abs() / (1 + out.abs())).max())
        if not gap <= _TOLERANCE.get(block.attn.W_O.dtype, 0.1):
            raise ValueError(
                f"the edges of {name} cannot be scored: in layer {layer} the heads and the bias do not add "
                f"up to what attention writes (they differ by {gap:.2g} of its size). Its architecture is "
                "not supported."
            )


def wide(x: Tensor) -> Tensor:
    """Float32 or better."""
    return x if x.dtype == torch.float64 else x.float()
