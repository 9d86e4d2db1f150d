"""Products of a few rows with a large matrix: a step of decoding, or the last positions of a pass.

Such a product reads every weight and does little with it, so that it takes as long as the reading, at best.
On a CPU the library's product of a few rows scarcely gains by a second core. Here the columns are cut into
slices, views of the weights without a copy, that multiply as a batch and that cores share evenly. One row by
rows of weights goes straight through; a bias is added afterwards, since one row is multiplied slower with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 16  # at most
WIDTH = 192  # columns of a slice, about
DTYPES = (torch.float32, torch.float64)


def few(x: Tensor, W: Tensor) -> bool:
    """Whether x [row, d] W is better made by `times` here: few rows, on a CPU, and no slopes wanted."""
    small = x.ndim == 2 and 1 <= len(x) <= ROWS and W.ndim == 2 and W.shape[1] >= WIDTH
    if not small or x.device.type != "cpu" or x.dtype != W.dtype or W.dtype not in DTYPES:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or W.requires_grad):
        return False
    return _straight(x, W) or (torch.get_num_threads() > 1 and 1 in W.stride())


def times(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """x [row, d] W [d, column] + b, for few rows; no copy of W."""
    out = x @ W if _straight(x, W) else _sliced(x, W)
    return out if b is None else out.add_(b)


def slices(n: int, threads: int) -> tuple[int, int]:
    """Slices of n columns, and how wide each is; the columns after the last are fewer than one is wide."""
    count = -(-max(round(n / WIDTH), 1) // threads) * threads
    width = min(-(-n // (16 * count)) * 16, n)
    return n // width, width


def _straight(x: Tensor, W: Tensor) -> bool:
    return len(x) == 1 and W.stride(1) == 1


def _sliced(x: Tensor, W: Tensor) -> Tensor:
    count, width = slices(W.shape[1], torch.get_num_threads())
    done = count * width
    parts = W[:, :done].unflatten(1, (count, width)).transpose(0, 1)  # [slice, d, column]
    out = torch.bmm(x.expand(count, *x.shape), parts).transpose(0, 1).reshape(len(x), done)
    return out if done == W.shape[1] else torch.cat((out, x @ W[:, done:]), 1)
