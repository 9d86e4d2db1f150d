"""`brief`: a short `repr` for objects that hold tensors: shapes for tensors, names for places.

A field that has its default is left out, as is one that dataclasses leave out (`repr=False`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from interp.places import Place

_SHOWN = 4  # entries of a collection
_LONGEST = 80  # characters of a value


def brief(self: Any) -> str:
    """The repr of a dataclass, to be set as `__repr__ = brief`.

    Example:
        >>> import torch
        >>> from interp import steering
        >>> d = steering.Direction.from_tensor(torch.ones(64), "L1.resid_pre")
        >>> steering.add(d, 2.0)
        (Intervention(site=L1.resid_pre, edit=Add(vector=[64], coefficient=2)),)
    """
    shown = [each for each in fields(self) if each.repr and not _is_default(getattr(self, each.name), each)]
    parts = [f"{each.name}={shortened(getattr(self, each.name))}" for each in shown]
    return f"{type(self).__name__}({', '.join(parts)})"


def brief_direction(self: Any) -> str:
    """The repr of a `steering.Direction`: how it was found, and width, length and norm at its places.

    Example:
        >>> import torch
        >>> import interp
        >>> interp.steering.Direction.from_tensor(2 * torch.ones(64), "L1.resid_pre")
        Direction(given: L1.resid_pre [64], length 16)
    """
    at_places = []
    for where, vector in self.vectors.items():
        length = f"length {float(vector.double().norm()):.3g}" if vector.ndim == 1 else self.layout
        norm = f", norm there {self.norms[where]:.3g}" if where in self.norms else ""
        at_places.append(f"{where} {list(vector.shape)}, {length}{norm}")
    of = "" if self.model is None else f" on {self.model}"
    at = f" at {self.positions}" if self.positions else ""
    return f"Direction({self.method}{of}{at}: {_several(at_places, '; ')})"


def _is_default(held: Any, field: Field[Any]) -> bool:
    """Whether it is what the field has where nothing is given; a tensor never is."""
    if field.default_factory is not MISSING:
        return isinstance(held, (Mapping, list, tuple)) and not held
    return held is field.default or (type(held) in (bool, int, float, str, tuple) and held == field.default)


def shortened(held: Any) -> str:
    """A value in a few characters."""
    if isinstance(held, Place):
        return str(held)
    if hasattr(held, "shape") and hasattr(held, "dtype"):
        return f"{list(held.shape)}" if held.ndim else f"{held.item():.4g}"
    if isinstance(held, float):
        return f"{held:.4g}"
    if isinstance(held, Mapping):
        return "{" + _several([f"{shortened(k)}: {shortened(v)}" for k, v in held.items()]) + "}"
    if isinstance(held, (list, tuple)):
        one = "," if isinstance(held, tuple) and len(held) == 1 else ""
        inside = _several([shortened(each) for each in held])
        return f"[{inside}]" if isinstance(held, list) else f"({inside}{one})"
    text = " ".join(repr(held).split())
    return text if len(text) <= _LONGEST or hasattr(held, "__dataclass_fields__") else f"{text[:77]}..."


def _several(parts: list[str], comma: str = ", ") -> str:
    """At most five parts: all, or the first four and how many more."""
    more = [f"... {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN + 1 else []
    return comma.join([*parts[:_SHOWN], *more] if more else parts)
