"""Sparse dictionaries: features of an activation, read from the files that people have, and used as sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.sae import methods as methods
    from interp.sae._circuit import circuit as circuit
    from interp.sae._contexts import contexts as contexts
    from interp.sae._contexts import encode as encode
    from interp.sae._cross_layer import CrossLayer as CrossLayer
    from interp.sae._dictionary import Dictionary as Dictionary
    from interp.sae._direct import through_attention as through_attention
    from interp.sae._direct import to_logits as to_logits
    from interp.sae._faithful import faithfulness as faithfulness
    from interp.sae._graph import FeatureGraph as FeatureGraph
    from interp.sae._load import load as load
    from interp.sae._load import load_set as load_set
    from interp.sae._report import check as check
    from interp.sae._report import report as report
    from interp.sae._to_feature import to_feature as to_feature
    from interp.sae._tracer import to_tracer as to_tracer

__all__ = [
    "CrossLayer",
    "Dictionary",
    "FeatureGraph",
    "check",
    "circuit",
    "contexts",
    "encode",
    "faithfulness",
    "load",
    "load_set",
    "methods",
    "report",
    "through_attention",
    "to_feature",
    "to_logits",
    "to_tracer",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.sae._circuit": ("circuit",),
        "interp.sae._contexts": ("contexts", "encode"),
        "interp.sae._cross_layer": ("CrossLayer",),
        "interp.sae._dictionary": ("Dictionary",),
        "interp.sae._direct": ("through_attention", "to_logits"),
        "interp.sae._faithful": ("faithfulness",),
        "interp.sae._graph": ("FeatureGraph",),
        "interp.sae._load": ("load", "load_set"),
        "interp.sae._report": ("check", "report"),
        "interp.sae._to_feature": ("to_feature",),
        "interp.sae._tracer": ("to_tracer",),
    },
    ("methods",),
)
