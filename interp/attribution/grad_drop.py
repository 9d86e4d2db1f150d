"""GradDrop of AtP*: one backward for every layer, with what that layer writes held constant.

A component can matter along several paths whose first-order effects cancel; the estimate is then near 0 while
patching it does much. With the writes of layer l held constant the paths through l are gone and the rest
shows. The estimate is a magnitude:

    1 / n · Σ_l |estimate with layer l dropped|

n counts the layers whose dropping leaves the cell a path at all: L - 1 for what lies inside a layer (dropping
its own layer cuts it off), L for the residual stream. Kramár et al. 2024, section 3.2.2 (2403.00745).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.models import Anatomy
from interp.places import hook_name


class Gates:
    """Gates on what every layer writes; one layer's can be shut, and then no gradient passes it."""

    def __init__(self, facts: Anatomy) -> None:
        self.shut: int | None = None
        sites = ["attn_out"] if facts.attn_only else ["attn_out", "mlp_out"]
        self.hooks = [
            (hook_name(site, layer), self._hook(layer)) for layer in range(facts.n_layers) for site in sites
        ]

    def _hook(self, layer: int) -> Callable[..., Tensor]:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            return _Gate.apply(tensor, self, layer)  # type: ignore[no-any-return]

        return hook


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gates: Gates, layer: int) -> Tensor:
        ctx.gates, ctx.layer = gates, layer
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = slopes
        return torch.zeros_like(slope) if ctx.gates.shut == ctx.layer else slope, None, None


def paths_left(site: str, n_layers: int) -> int:
    """The number of layers that can be dropped without cutting the site off."""
    return n_layers if site.startswith("resid") else n_layers - 1
