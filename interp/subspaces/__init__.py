"""Subspaces of an activation: what a few directions carry, exchanged, learnt, and tested for illusions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.subspaces._das import Found as Found
    from interp.subspaces._das import das as das
    from interp.subspaces._das import scan as scan
    from interp.subspaces._interchange import illusion as illusion
    from interp.subspaces._interchange import interchange as interchange
    from interp.subspaces._interchange import readers as readers
    from interp.subspaces._overlap import amplification as amplification
    from interp.subspaces._overlap import nuclear_norm as nuclear_norm
    from interp.subspaces._overlap import overlap as overlap
    from interp.subspaces._pairs import Pairs as Pairs
    from interp.subspaces._pairs import pairs as pairs
    from interp.subspaces._stage import accuracy as accuracy
    from interp.subspaces._subspace import Flow as Flow
    from interp.subspaces._subspace import Subspace as Subspace
    from interp.subspaces._subspace import orthonormal as orthonormal

__all__ = [
    "Flow",
    "Found",
    "Pairs",
    "Subspace",
    "accuracy",
    "amplification",
    "das",
    "illusion",
    "interchange",
    "nuclear_norm",
    "orthonormal",
    "overlap",
    "pairs",
    "readers",
    "scan",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.subspaces._das": ("Found", "das", "scan"),
        "interp.subspaces._interchange": ("illusion", "interchange", "readers"),
        "interp.subspaces._overlap": ("amplification", "nuclear_norm", "overlap"),
        "interp.subspaces._pairs": ("Pairs", "pairs"),
        "interp.subspaces._stage": ("accuracy",),
        "interp.subspaces._subspace": ("Flow", "Subspace", "orthonormal"),
    },
)
