"""Products of lower precision, on request: the weights of blocks in bfloat16, or TF32 on a GPU.

The stream, norms, softmax and what a patch puts in stay float32. Only the large products of blocks are less
precise, in base, source and counterfactual runs alike, so that what they share cancels. How far effects are
off is measured (`patching._precise`), never assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from interp.models import Anatomy
from interp.models.parts import Attention, Block, Weights
from interp.places import hint

PRECISIONS = ("bfloat16", "tf32")


def check_precision(precision: str | None, facts: Anatomy, engine: str) -> None:
    """Raise ValueError for what is no precision, or one that the model, device or engine cannot have."""
    if precision is None:
        return
    if precision not in PRECISIONS:
        known = " or ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision is {precision!r}; use {known}, or None{hint(precision, PRECISIONS)}")
    if facts.dtype != torch.float32:
        name = str(facts.dtype).removeprefix("torch.")
        raise ValueError(
            f"precision={precision!r} lowers the products of a float32 model, and this one is {name}. "
            "Leave it out, or load the model in float32."
        )
    if engine == "reference":
        raise ValueError(
            f"precision={precision!r} is of our own products, and engine='reference' runs the model itself. "
            "Use engine='auto' or 'fast', or load the model in bfloat16."
        )
    if reason := _unable(precision, facts.device):
        raise ValueError(f"precision={precision!r} cannot be had here: {reason}.")


def _unable(precision: str, device: torch.device) -> str | None:
    """Why a device does not multiply so, in words."""
    if device.type == "cuda":
        newest = torch.cuda.get_device_capability(device) >= (8, 0)
        return None if newest else f"{torch.cuda.get_device_name(device)} is older than Ampere"
    if precision == "tf32":
        return f"TF32 is NVIDIA's GPUs' arithmetic, and the model is on {device.type}. Use a GPU"
    return None


def lowered(weights: Weights, precision: str | None) -> Weights:
    """The weights with the matrices of blocks in bfloat16: a copy of half their size. Else as they are."""
    if precision != "bfloat16":
        return weights
    return replace(weights, blocks=tuple(_block(block) for block in weights.blocks))


def _block(block: Block) -> Block:
    attn, mlp = block.attn, block.mlp
    cast = {name: getattr(attn, name).bfloat16() for name in ("W_Q", "W_K", "W_V", "W_O")}
    own: Attention = replace(attn, **cast)
    if mlp is not None:
        gate = None if mlp.W_gate is None else mlp.W_gate.bfloat16()
        mlp = replace(mlp, W_in=mlp.W_in.bfloat16(), W_gate=gate, W_out=mlp.W_out.bfloat16())
    return replace(block, attn=own, mlp=mlp)


@contextmanager
def arithmetic(precision: str | None) -> Iterator[None]:
    """Products of float32 in TF32 while it lasts, where that is asked for."""
    if precision != "tf32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
