"""Products of a few rows by slices of the columns: the plain product, and no copy of the weights."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from interp.engine import block as B
from interp.engine import thin


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Sizes(TorchDispatchMode):
    """The largest tensor that an operation made, and the operations that multiply."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.products = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in ("mm", "bmm", "addmm"):
            self.products.append(name)
        if isinstance(out, torch.Tensor) and out._base is None and not func.is_view:
            self.largest = max(self.largest, out.numel())
        return out


def matrices(n: int) -> dict[str, torch.Tensor]:
    """The same weights [40, n], laid out by rows and by columns."""
    W = torch.randn(40, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return {"rows": W, "columns": W.T.contiguous().T}


@pytest.mark.parametrize("n", [192, 200, 576, 1009, 5027])
def test_it_is_the_product_without_a_copy_of_the_weights(n, threads):
    for W in matrices(n).values():
        for rows in (1, 2, 8, 16):
            x = torch.randn(rows, 40, dtype=torch.float64)
            for b in (None, torch.randn(n, dtype=torch.float64)):
                with Sizes() as sizes:
                    out = thin.times(x, W, b)
                torch.testing.assert_close(out, x @ W + (0 if b is None else b), rtol=0, atol=1e-12)
                assert sizes.largest < W.numel()
                assert "addmm" not in sizes.products


@pytest.mark.parametrize("n", [192, 200, 576, 1009, 49152, 50257])
def test_slices_cover_the_columns_and_are_shared_evenly(n):
    for threads in (1, 2, 3, 16):
        count, width = thin.slices(n, threads)
        assert 0 <= n - count * width < width
    assert thin.slices(576, 2) == (4, 144)
    assert thin.slices(49152, 2) == (256, 192)


def test_where_slices_are_used(threads):
    W, by_column = matrices(400).values()
    x = torch.randn(8, 40, dtype=torch.float64)
    with Sizes() as sizes:
        B.times(x, W)
    assert ("bmm" in sizes.products) == (threads > 1)
    assert thin.few(x[:1], W)  # one row goes straight through
    assert thin.few(x[:1], by_column) == (threads > 1)
    assert not thin.few(torch.randn(17, 40, dtype=torch.float64), W)
    assert not thin.few(x[:0], W)
    assert not thin.few(x, W.float())
    assert not thin.few(x.bfloat16(), W.bfloat16())
    assert not thin.few(x[:1].clone().requires_grad_(), W)
