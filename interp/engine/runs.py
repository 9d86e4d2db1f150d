"""The two runs of every counterfactual: the base, which is patched, and the source of what is patched in.

Denoising patches the clean run's activations into the corrupt run; noising the other way round. An ablation
takes its source from `fill` instead of from a second run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Fill = Callable[[str, int, Tensor], Tensor]  # site, layer, activation of the source run -> what to patch in


@dataclass(frozen=True, eq=False)
class Runs:
    """Tokens of the base and source runs, and where the metrics read them."""

    base: Int[Tensor, "prompt pos"]
    source: Int[Tensor, "prompt pos"]
    clean_is_base: bool
    answer: Int[Tensor, "prompt k"]
    wrong: Int[Tensor, "prompt j"]
    positions: Int[Tensor, "prompt"]
    lengths: Int[Tensor, "prompt"]
    noise: Float[Tensor, "prompt pos d_model"] | None = None  # added to the corrupt run's embeddings
    fill: Fill | None = None

    def __len__(self) -> int:
        return self.base.shape[0]

    @property
    def n_pos(self) -> int:
        return self.base.shape[1]

    @property
    def clean(self) -> Int[Tensor, "prompt pos"]:
        return self.base if self.clean_is_base else self.source

    def noises(self) -> tuple[Tensor | None, Tensor | None]:
        """The noise on the base run and on the source run."""
        return (None, self.noise) if self.clean_is_base else (self.noise, None)

    def first_change(self) -> Int[Tensor, "prompt"]:
        """First position at which the two runs can differ; `n_pos` where they never do."""
        if self.fill is not None:
            return torch.zeros_like(self.positions)
        differ = self.base != self.source  # [prompt, pos]
        if self.noise is not None:
            differ = differ | (self.noise != 0).any(-1)
        return torch.where(differ.any(1), differ.int().argmax(1), self.n_pos)

    def outside_inference(self) -> Runs:
        """The same runs in tensors that a graph can hold, also where the task was made in inference mode."""
        names = ("base", "source", "answer", "wrong", "positions", "lengths", "noise")
        parts = {name: getattr(self, name) for name in names}
        with torch.inference_mode(False):
            copies = {k: p.clone() for k, p in parts.items() if p is not None and p.is_inference()}
        return replace(self, **copies)

    def take(self, index: slice | Tensor) -> Runs:
        """The same runs for some of the prompts."""
        names = ("base", "source", "answer", "wrong", "positions", "lengths", "noise")
        parts = {name: getattr(self, name) for name in names}
        return replace(self, **{name: part[index] for name, part in parts.items() if part is not None})
