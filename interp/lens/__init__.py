"""Lenses: what each layer would say, by the unembedding, and what vectors say to the vocabulary.

`logit` reads the stream, through a tuned or a Jacobian lens if one is given; `read` any vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.lens._backward import backward as backward
    from interp.lens._fit import jacobian as jacobian
    from interp.lens._fit import tuned as tuned
    from interp.lens._logit import logit as logit
    from interp.lens._mixed import mixed as mixed
    from interp.lens._patchscope import patchscope as patchscope
    from interp.lens._translators import JacobianLens as JacobianLens
    from interp.lens._translators import TunedLens as TunedLens
    from interp.lens._translators import convert as convert
    from interp.lens._vectors import read as read
    from interp.lens._vectors import values as values

__all__ = [
    "JacobianLens",
    "TunedLens",
    "backward",
    "convert",
    "jacobian",
    "logit",
    "mixed",
    "patchscope",
    "read",
    "tuned",
    "values",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.lens._backward": ("backward",),
        "interp.lens._fit": ("jacobian", "tuned"),
        "interp.lens._logit": ("logit",),
        "interp.lens._mixed": ("mixed",),
        "interp.lens._patchscope": ("patchscope",),
        "interp.lens._translators": ("JacobianLens", "TunedLens", "convert"),
        "interp.lens._vectors": ("read", "values"),
    },
)
