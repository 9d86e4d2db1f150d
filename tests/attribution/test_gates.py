"""Gates: gate(x) · x is the activation, and the gate is finite and right where a quotient is not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from interp.attribution.rules._gates import GATES, check_activation, gate, tanh_ratio

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
    "gelu_bloom": lambda x: 0.5 * x * (1 + torch.tanh(x * 0.79788456 * (1 + 0.044715 * x * x))),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "relu_2": lambda x: F.relu(x) ** 2,
    "relu_squared": lambda x: F.relu(x) ** 2,
    "solu": lambda x: x * x.softmax(-1),
    "solu_ln": lambda x: x * x.softmax(-1),
    "linear": lambda x: x,
}
TINY = (0.0, 1e-10, -1e-10, 1e-300, -1e-300)


def points() -> torch.Tensor:
    return torch.linspace(-9, 9, 2001, dtype=torch.float64)


def test_every_gate_is_covered() -> None:
    assert set(ACTIVATIONS) == set(GATES)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gate_times_input_is_the_activation(name: str) -> None:
    x = points()
    torch.testing.assert_close(gate(name, x) * x, ACTIVATIONS[name](x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if "solu" not in name])
def test_gate_at_zero_is_the_derivative_there(name: str) -> None:
    """act(x) / x -> act'(0); of relu torch's own choice, 0."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(ACTIVATIONS[name](x).sum(), x)[0]
    found = gate(name, x.detach())
    assert float(found) == pytest.approx(float(slope), abs=1e-15)
    if "gelu" in name or name in ("silu", "swish"):
        assert float(found) == 0.5


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if "gelu" in name or name == "silu"])
def test_gate_is_continuous_at_zero(name: str) -> None:
    x = torch.tensor(TINY, dtype=torch.float64)
    torch.testing.assert_close(gate(name, x), torch.full_like(x, 0.5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if "solu" not in name])
def test_gate_in_low_precision(name: str, dtype: torch.dtype) -> None:
    """Finite up to the ends of the dtype, and as exact as it can hold."""
    largest = torch.finfo(dtype).max
    ends = torch.tensor([0.0, 1e-10, -1e-10, 100.0, -100.0, largest, -largest], dtype=dtype)
    assert gate(name, ends).isfinite().all()
    x = points().to(dtype)
    assert gate(name, x).dtype == dtype
    expected = gate(name, x.double())
    error = (gate(name, x).double() - expected).abs() / (1 + expected.abs())
    assert float(error.max()) < 2 * torch.finfo(dtype).eps


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match=r"'xielu' is not known.*identity=False"):
        check_activation("xielu")
    with pytest.raises(ValueError, match="did you mean 'gelu_fast'"):
        check_activation("gelu_fst")


def test_tanh_ratio() -> None:
    """Against the Taylor series near 0 and the quotient elsewhere, across the point where the two meet."""
    x = torch.tensor([0.0, 1e-12, -1e-4, 9.99e-4, 1.001e-3, -0.5, 3.0, 800.0], dtype=torch.float64)
    series = [1 - v * v / 3 + 2 * v**4 / 15 if abs(v) < 0.01 else math.tanh(v) / v for v in x.tolist()]
    torch.testing.assert_close(tanh_ratio(x), torch.tensor(series, dtype=torch.float64), rtol=0, atol=1e-12)
