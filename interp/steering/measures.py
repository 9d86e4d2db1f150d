"""Metrics of steered runs beside those of `interp.tasks`, and measures of generated text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.tasks.metrics import Metric, Reading


@dataclass(frozen=True)
class Entropy(Metric):
    """Entropy of the next-token distribution at the answer position."""

    name = "entropy"
    unit = "nats"
    better = "lower"

    def __call__(self, reading: Reading) -> Float[Tensor, "item"]:
        log = reading.logits.log_softmax(-1)
        return -(log.exp() * log).sum(-1)


def repetition(tokens: Int[Tensor, "prompt pos"], n: int = 2) -> Float[Tensor, "prompt"]:
    """Share of the n-grams of each row that have come before in it: 0 all new, towards 1 a loop."""
    if tokens.shape[1] <= n:
        raise ValueError(f"repetition of {n}-grams needs more than {n} tokens, got {tokens.shape[1]}.")
    grams = tokens.unfold(1, n, 1)  # [prompt, gram, n]
    new = torch.tensor([len(set(map(tuple, row))) for row in grams.tolist()], dtype=torch.float64)
    return 1 - new / grams.shape[1]
