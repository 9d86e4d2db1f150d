"""Models: `load` one by name or from a folder, `available` lists the bundled ones.

Importing this package loads neither torch nor transformer_lens; the first `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.models.bundled import Card as Card
from interp.models.bundled import available as available

if TYPE_CHECKING:
    from interp.models.loading import ModelNotReachable as ModelNotReachable
    from interp.models.loading import load as load

__all__ = ["Card", "ModelNotReachable", "available", "load"]


def __getattr__(name: str) -> Any:
    if name in ("load", "ModelNotReachable"):
        from interp.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'interp.models' has no attribute {name!r}; it has {', '.join(__all__)}")
