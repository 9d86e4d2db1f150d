"""The parts of a model as the fast engine reads them: plain tensors in TransformerLens's shapes.

References, never copies, with the few functions (norm, rotary, activation, softmax) that turn them into a
forward pass. Relevance rules are parts of the same values with other slopes (`attribution/rules/_parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm (`centred`) or RMSNorm, with or without gain and bias; computed in float32 or better.

    A norm of queries or keys may have a gain for each head, [head, d_head].
    """

    centred: bool
    eps: float
    gain: Tensor | None
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        shape = x.shape[-1:]
        by_head = self.gain is not None and self.gain.ndim > 1
        if x.dtype in (torch.float32, torch.float64) and not by_head:
            return self._normalise(x, shape, self.gain, self.bias)
        exact = x if x.dtype == torch.float64 else x.float()
        out = self._normalise(exact, shape, None, None).to(x.dtype)
        out = out if self.gain is None else out * self.gain
        return out if self.bias is None else out + self.bias

    def _normalise(self, x: Tensor, shape: torch.Size, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.centred:
            return F.layer_norm(x, shape, gain, bias, self.eps)
        return F.rms_norm(x, shape, gain, self.eps)


@dataclass(frozen=True, eq=False)
class Rotary:
    sin: Tensor  # [position, rotary_dim]
    cos: Tensor
    adjacent: bool  # pairs (0, 1), (2, 3), ... as in GPT-J; otherwise (i, i + rotary_dim / 2)

    def __call__(self, x: Tensor, pos: Tensor) -> Tensor:
        """Rotate x [row, head, d_head] whose rows stand at absolute positions `pos` [row]."""
        dim = self.sin.shape[-1]
        sin, cos = self.sin[pos][:, None], self.cos[pos][:, None]  # [row, 1, rotary_dim]
        turned = x[..., :dim]
        if self.adjacent:
            flipped = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
        else:
            flipped = torch.cat((-turned[..., dim // 2 :], turned[..., : dim // 2]), -1)
        rotated = (turned * cos + flipped * sin).to(x.dtype)  # OLMo's tables are float32 in any model
        return rotated if dim == x.shape[-1] else torch.cat((rotated, x[..., dim:]), -1)


@dataclass(frozen=True, eq=False)
class Attention:
    W_Q: Tensor  # [head, d_model, d_head]
    W_K: Tensor  # [kv head, d_model, d_head]
    W_V: Tensor
    W_O: Tensor  # [head, d_head, d_model]
    b_Q: Tensor | None
    b_K: Tensor | None
    b_V: Tensor | None
    b_O: Tensor | None
    scale: float
    soft_cap: float
    clip: float | None
    window: int | None  # local attention: keys further back than this are masked
    q_norm: Norm | None
    k_norm: Norm | None
    whole_norm: bool  # these norms stand on all heads' vectors together
    rotary: Rotary | None
    alibi: Tensor | None  # slopes, [head]

    @property
    def fused(self) -> bool:
        """Whether a kernel that never has the pattern at hand computes the same."""
        return self.soft_cap <= 0

    def weigh(self, scores: Tensor) -> Tensor:
        """The pattern, from masked scores [..., query, key]."""
        return scores.softmax(-1)

    def factor(self, x: Tensor) -> Tensor:
        """A query, key, value or pattern as its product takes it."""
        return x


@dataclass(frozen=True, eq=False)
class MLP:
    W_in: Tensor  # [d_model, d_mlp]
    W_gate: Tensor | None
    W_out: Tensor  # [d_mlp, d_model]
    b_in: Tensor | None
    b_out: Tensor | None
    act: Callable[[Tensor], Tensor]
    norm: Norm | None  # of what it reads
    out_norm: Norm | None  # of what it writes

    def hidden(self, pre: Tensor, linear: Tensor | None) -> Tensor:
        """The activations after the nonlinearity [row, neuron]; linear: a gated MLP's other factor."""
        if linear is None:
            return self.act(pre)
        out = self.act(pre) * linear
        return out if self.b_in is None else out + self.b_in


@dataclass(frozen=True, eq=False)
class Block:
    attn: Attention
    mlp: MLP | None
    attn_norm: Norm | None  # before attention
    attn_out_norm: Norm | None  # after attention, before the stream
    parallel: bool

    @property
    def device(self) -> torch.device:
        """Where all of it lies; the stream comes to it."""
        return self.attn.W_O.device


@dataclass(frozen=True, eq=False)
class Weights:
    W_E: Tensor
    W_pos: Tensor | None
    embed_norm: Norm | None
    blocks: Sequence[Block]
    final_norm: Norm | None
    W_U: Tensor  # [d_model, vocab]
    b_U: Tensor | None
    soft_cap: float
    embed_scale: float = 1.0  # of the token embedding (Gemma)

    def capped(self, logits: Tensor) -> Tensor:
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap > 0 else logits

    def embed(self, tokens: Tensor, noise: Tensor | None = None) -> Tensor:
        """The stream before the first block: [prompt, pos, d_model]; noise is added to the embedding."""
        return self.embed_at(tokens, slice(tokens.shape[1]), noise)

    def embed_at(self, tokens: Tensor, position: Tensor | slice, noise: Tensor | None = None) -> Tensor:
        """The same where the tokens stand at other positions, [pos] or [prompt, pos]."""
        x = self.W_E[tokens]
        x = x if self.embed_scale == 1.0 else x * torch.tensor(self.embed_scale, dtype=x.dtype)
        x = x if self.embed_norm is None else self.embed_norm(x)
        x = x if noise is None else x + noise
        return x if self.W_pos is None else x + self.W_pos[position]


def tensors(part: Any) -> Iterator[Tensor]:
    """Every tensor of a dataclass of weights."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        yield from (tensor for each in part for tensor in tensors(each))
    elif is_dataclass(part) and not isinstance(part, type):
        yield from (tensor for each in fields(part) for tensor in tensors(getattr(part, each.name)))


def beside(part: Part, device: torch.device) -> Part:
    """A tensor, or a dataclass of them, on a device: itself where it lies there."""
    if isinstance(part, Tensor):
        return part.to(device)  # type: ignore[return-value]
    if not is_dataclass(part) or isinstance(part, type):
        return part
    if all(each.device == device for each in tensors(part)):
        return part
    return replace(part, **{each.name: beside(getattr(part, each.name), device) for each in fields(part)})  # type: ignore[type-var]


class _Brought(Sequence[Block]):
    """Blocks of several devices, each copied to one device when it is asked for, and let go after that."""

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        self.blocks, self.device = blocks, device

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Brought(self.blocks[index], self.device)
        return beside(self.blocks[index], self.device)


def gathered(weights: Weights) -> Weights:
    """The weights for passes that stay on one device, the embedding's: those of a model that lies there.

    Of a model on several devices each block is copied when a pass comes to it; the unembedding once.
    """
    home = weights.W_E.device
    if all(each.device == home for each in tensors(replace(weights, blocks=tuple(weights.blocks)))):
        return weights
    ends = beside(replace(weights, blocks=()), home)
    return replace(ends, blocks=_Brought(weights.blocks, home))


def in_place(weights: Weights) -> Weights:
    """Gathered weights with each block where it lies, for passes that follow them and hold a graph."""
    held = weights.blocks
    return replace(weights, blocks=held.blocks) if isinstance(held, _Brought) else weights
