"""Gates: act(x) / x of the activations that language models use, in closed form.

The Identity-rule gives an activation the slope act(x) / x, so that slope times input is the output:
relevance passes as through a linear gate. A quotient would be lost to rounding near 0; these forms are
exact there, with the limit at 0 itself (0.5 for gelu and silu; 0 for relu, as its derivative in torch).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.places import hint

_GELU_NEW = math.sqrt(2 / math.pi)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(_GELU_NEW * (x + 0.044715 * x**3)))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))


def _gelu_bloom(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(x * 0.79788456 * (1 + 0.044715 * x * x)))


def _relu(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _relu_squared(x: Tensor) -> Tensor:
    return x.clamp(min=0)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu,
    "gelu_python": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_accurate": _gelu_tanh,
    "gelu_fast": _gelu_fast,
    "gelu_bloom": _gelu_bloom,
    "quick_gelu": lambda x: torch.sigmoid(1.702 * x),
    "silu": torch.sigmoid,
    "swish": torch.sigmoid,
    "relu": _relu,
    "relu2": _relu_squared,
    "relu_2": _relu_squared,
    "relu_squared": _relu_squared,
    "solu": lambda x: x.softmax(-1),
    "solu_ln": lambda x: x.softmax(-1),
    "linear": torch.ones_like,
}


def check_activation(name: str | None) -> None:
    """Raise ValueError for an activation whose gate is not known."""
    if name not in GATES:
        raise ValueError(
            f"the gate act(x) / x of activation {name!r} is not known, so the Identity-rule cannot be applied"
            f"{hint(str(name), GATES)} Known: {', '.join(GATES)}. Use identity=False for its true slope."
        )


def gate(name: str, x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    """act(x) / x by the activation's name, computed in float32 or better and returned in the dtype of x."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return GATES[name](wide).to(x.dtype)


def tanh_ratio(x: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
    """tanh(x) / x, 1 at 0; by its series where the quotient would round."""
    near = x.abs() < 1e-3
    return torch.where(near, 1 - x * x / 3, torch.tanh(x) / x.masked_fill(near, 1.0))
