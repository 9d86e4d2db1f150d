"""Slopes that hold the graph of one block at a time, for a prompt whose whole graph is more than the memory.

1. Run forward without a graph, keeping the stream before every block.
2. The slope in the final stream comes from the graph of the readout.
3. From the last block to the first: run it again from what was kept, with its graph, and take the slope back
   through it; what is asked for inside the block comes with it.

Slopes are those of one graph, to rounding. Each backward costs the blocks another forward. Chen et al. 2016
(1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._by_hooks import Recording
from interp.engine.forward import Taps as Acts
from interp.engine.forward import forward
from interp.models.parts import Weights

Tapped = Callable[[dict[Any, Tensor]], Acts]  # what holds tensors for slopes -> taps of a pass


@dataclass(frozen=True, eq=False, kw_only=True)
class ByBlock(Recording):
    """A pass of which the streams are kept. `tensors` is empty: slopes come block by block.

    streams: before each block; final: after the last, the leaf of the graph of the logits.
    """

    weights: Weights
    streams: list[Float[Tensor, "prompt pos d_model"]]
    final: Tensor
    tapped: Tapped

    def gradients(self, value: Tensor, keep_graph: bool = False) -> dict[Any, Tensor]:
        """d value / d tensor for every tensor asked for that the value depends on. Cost: a forward more."""
        (slope,) = torch.autograd.grad(value, self.final, retain_graph=keep_graph, allow_unused=True)
        slopes: dict[Any, Tensor] = {}
        for layer in reversed(range(len(self.streams))):
            if slope is None:
                break
            slope = self._through(layer, slope, slopes)
        return slopes

    def _through(self, layer: int, slope: Tensor, slopes: dict[Any, Tensor]) -> Tensor | None:
        """The slope before a block from that after it; those asked for inside are put down."""
        held: dict[Any, Tensor] = {}
        x = self.streams[layer].detach().requires_grad_(True)
        with torch.enable_grad():
            out = forward(self.weights, x, layer, self.tapped(held), fused=True, stop=layer + 1)
        found = torch.autograd.grad(out, [x, *held.values()], slope, allow_unused=True)
        slopes.update({key: each for key, each in zip(held, found[1:]) if each is not None})
        return found[0]


@torch.no_grad()
def streams(
    weights: Weights, x: Float[Tensor, "prompt pos d_model"], taps: Acts
) -> list[Float[Tensor, "prompt pos d_model"]]:
    """The stream before every block, and after the last. Cost: a forward."""
    kept = [x]
    for layer in range(len(weights.blocks)):
        kept.append(forward(weights, kept[-1], layer, taps, fused=True, stop=layer + 1))
    return kept
