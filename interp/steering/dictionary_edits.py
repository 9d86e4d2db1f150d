"""Edits through a function of the activations: latents of a sparse autoencoder, gradients of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.steering.edits import Edit


@dataclass(frozen=True, eq=False)
class SaeDelta(Edit):
    """h + (z' − z) · decoder, with z = encode(h) and z' = change(z).

    What the autoencoder does not reconstruct stays in h, and latents that are left alone change nothing.
    """

    encode: Callable[[Tensor], Tensor]  # h [..., d] -> latents [..., latent]
    decoder: Float[Tensor, "latent d"]
    change: Callable[[Tensor], Tensor]  # latents -> latents, a new tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.decoder.shape[-1])

    def __call__(self, h: Tensor) -> Tensor:
        z = self.encode(h)
        changed = self.change(z)
        if changed.shape != z.shape:
            raise ValueError(
                f"change made latents of shape {tuple(changed.shape)} from {tuple(z.shape)}; keep the shape."
            )
        return h + (changed - z).to(h) @ self.decoder.to(h)


@dataclass(frozen=True, eq=False)
class Gradient(Edit):
    """h + step · d score / d h, where `score` maps h [..., d] to numbers [...]: uphill for step > 0."""

    score: Callable[[Tensor], Tensor]
    step: float | int = 1.0
    normalise: bool = False  # gradients of length 1 at every position

    def __call__(self, h: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            leaf = h.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.score(leaf).sum(), leaf)
        if self.normalise:
            slope = slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return h + self.step * slope
