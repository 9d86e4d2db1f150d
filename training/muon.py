"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum with orthogonal updates.

1. m ← β m + (1 − β) g; look ahead: u = (1 − β) g + β m;
2. o = the nearest matrix to u whose singular values are all about 1 (five Newton-Schulz iterations);
3. W ← (1 − rate · decay) W − rate · 0.2 √max(rows, columns) · o, which moves W about as far as Adam does.

A parameter of three dimensions is a stack of matrices, one for each head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices inside a network; embeddings, norms and biases want Adam."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step from the gradients at hand."""
        for group in self.param_groups:
            beta = group["momentum"]
            for weight in group["params"]:
                state = self.state[weight]
                average = state.setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - beta)
                update = orthogonal(weight.grad.lerp(average, beta))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape[-2:]) ** 0.5)


def orthogonal(matrix: Float[Tensor, "*stack row column"]) -> Float[Tensor, "*stack row column"]:
    """The matrix with its singular values moved near 1."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (*stack, row, row)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
