"""Comparing a student's answer with the lab's: what differs, at which index, and how the two are related."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def difference(yours: Any, right: Any, tolerance: float) -> str | None:
    """What differs, in words; None where nothing does. tolerance: relative to the largest number of
    `right`.
    """
    if isinstance(right, Tensor):
        return _tensors(yours, right, tolerance)
    if isinstance(right, bool | str | int | set) or right is None:
        alike = type(yours) is type(right) and yours == right
        return None if alike else f"yours is {_short(yours)}, right is {_short(right)}"
    if isinstance(right, float):
        return _floats(yours, right, tolerance)
    if isinstance(right, tuple | list):
        return _sequences(yours, right, tolerance)
    if isinstance(right, dict):
        return _named(yours, right, tolerance)
    return None  # models and functions are not compared


def same(yours: Any, right: Any, tolerance: float) -> bool:
    """Whether nothing differs."""
    return difference(yours, right, tolerance) is None


def snapshot(value: Any) -> Any:
    """A copy of the tensors in a value, to see later whether they were changed; None for what holds none."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return [snapshot(part) for part in value]
    return None


def relation(yours: Any, right: Any) -> str:
    """A likely cause from how two tensors of one shape are related: turned, negated, scaled."""
    if not (isinstance(yours, Tensor) and isinstance(right, Tensor)) or right.numel() == 0:
        return ""
    yours, right = yours.detach().double(), right.detach().double()
    if yours.shape != right.shape:
        turned = yours.ndim == 2 and yours.T.shape == right.shape
        exchanged = turned and torch.allclose(yours.T, right, atol=1e-5)
        return "rows and columns are exchanged" if exchanged else ""
    if torch.isnan(yours).any():
        return "a division by 0, or a mean over nothing"
    if torch.allclose(yours, -right, rtol=1e-4, atol=1e-6):
        return "the sign is turned round: which of the two is subtracted from which?"
    if yours.numel() > 1 and bool((yours == yours.flatten()[0]).all()):
        return "every number is the same: is the argument used at all?"
    scale = (yours * right).sum() / (right * right).sum()
    if torch.allclose(yours, scale * right, rtol=1e-4, atol=1e-6) and float(scale) != 0:
        return f"every number is {float(scale):.4g} times the right one"
    return ""


def _tensors(yours: Any, right: Tensor, tolerance: float) -> str | None:
    if not isinstance(yours, Tensor):
        return f"yours is {_short(yours)}, right is a tensor of shape {_shape(right)}"
    if yours.shape != right.shape:
        return f"the shape is {_shape(yours)}, it should be {_shape(right)}"
    a, b = yours.detach().double(), right.detach().double()
    room = tolerance * max(float(b.nan_to_num().abs().max()) if b.numel() else 0.0, 1e-6)
    wrong = ~torch.isclose(a, b, rtol=0.0, atol=room, equal_nan=True)
    if not bool(wrong.any()):
        return None
    where = tuple(wrong.nonzero()[0].tolist())
    at = f"at [{', '.join(map(str, where))}] " if where else ""
    count = f" ({int(wrong.sum())} of {wrong.numel()} differ)" if wrong.numel() > 1 else ""
    return f"{at}yours is {float(a[where]):.5g}, right is {float(b[where]):.5g}{count}"


def _floats(yours: Any, right: float, tolerance: float) -> str | None:
    if isinstance(yours, Tensor) and yours.numel() == 1:
        yours = float(yours)
    if isinstance(yours, bool) or not isinstance(yours, int | float):
        return f"yours is {_short(yours)}, right is {right:.5g}"
    near = abs(yours - right) <= tolerance * max(abs(right), 1e-6)
    return None if near else f"yours is {yours:.5g}, right is {right:.5g}"


def _sequences(yours: Any, right: Any, tolerance: float) -> str | None:
    if not isinstance(yours, tuple | list) or len(yours) != len(right):
        return f"yours is {_short(yours)}, right are {len(right)} values in a {type(right).__name__}"
    for index, (a, b) in enumerate(zip(yours, right)):
        if said := difference(a, b, tolerance):
            return f"value {index}: {said}"
    return None


def _named(yours: Any, right: dict[str, Any], tolerance: float) -> str | None:
    if not isinstance(yours, dict):
        return f"yours is {_short(yours)}, right is a dict"
    for name, value in right.items():
        if name not in yours:
            return "yours has no slope: everything is detached, or no tensor came back"
        if said := difference(yours[name], value, tolerance):
            return f"{name}: {said}"
    return None


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {_shape(value)}"
    text = f"{{{', '.join(map(repr, sorted(value)))}}}" if isinstance(value, set) and value else repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
