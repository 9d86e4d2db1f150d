"""Sparse dictionaries: features of an activation, read from the files that people have, and used as sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.sae._cross_layer import CrossLayer as CrossLayer
    from interp.sae._dictionary import Dictionary as Dictionary
    from interp.sae._load import load as load
    from interp.sae._load import load_set as load_set

__all__ = ["CrossLayer", "Dictionary", "load", "load_set"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.sae._cross_layer": ("CrossLayer",),
        "interp.sae._dictionary": ("Dictionary",),
        "interp.sae._load": ("load", "load_set"),
    },
)
