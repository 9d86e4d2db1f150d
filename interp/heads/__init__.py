"""What heads do: their attention as labelled arrays, scores of known roles, composition from weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.heads._composition import composition as composition
    from interp.heads._composition import copying as copying
    from interp.heads._patterns import attention as attention
    from interp.heads._patterns import scores as scores

__all__ = ["attention", "composition", "copying", "scores"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.heads._composition": ("composition", "copying"),
        "interp.heads._patterns": ("attention", "scores"),
    },
)
