"""Steering: directions, interventions that hit the right token, and their side effects.

Here are the verbs of every day. The rest lies in modules by what it is:

| module       | holds                                                                      |
|--------------|----------------------------------------------------------------------------|
| `extract`    | every extractor, also of several classes or without labels                 |
| `edits`      | every edit: add, ablate, clamp, rotate, inject, scale_units, ...           |
| `when`       | the positions at which an edit acts (`interp.positions`)                   |
| `gates`      | how strongly it acts on each row or token                                  |
| `measures`   | what a sweep says: slopes, the best setting, repetition; Entropy           |
| `methods`    | methods of papers                                                          |
| `estimators` | directions from two sets of activations, pure functions                    |
| `selectors`  | scores of single units, pure functions                                     |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp import positions as when
    from interp._activations import activations as activations
    from interp.models.places import writers as writers
    from interp.probes import selectors as selectors
    from interp.steering import edits as edits
    from interp.steering import estimators as estimators
    from interp.steering import extract as extract
    from interp.steering import gates as gates
    from interp.steering import measures as measures
    from interp.steering import methods as methods
    from interp.steering._audit import audit as audit
    from interp.steering._audit import edited_direction as edited_direction
    from interp.steering._bake import bake as bake
    from interp.steering._controls import controls as controls
    from interp.steering._direction import Direction as Direction
    from interp.steering._generate import generate as generate
    from interp.steering._generate import texts as texts
    from interp.steering._intervention import Intervention as Intervention
    from interp.steering._optimise import learn as learn
    from interp.steering._optimise import optimise as optimise
    from interp.steering._side_by_side import side_by_side as side_by_side
    from interp.steering._steer import steer as steer
    from interp.steering._sweep import sweep as sweep
    from interp.steering.edits import ablate as ablate
    from interp.steering.edits import add as add
    from interp.steering.edits import clamp as clamp
    from interp.steering.edits import rotate as rotate
    from interp.steering.extract import lda as lda
    from interp.steering.extract import logistic as logistic
    from interp.steering.extract import mean_difference as mean_difference
    from interp.steering.extract import pca as pca
    from interp.steering.measures import calibrate as calibrate

__all__ = [
    "Direction", "Intervention", "ablate", "activations", "add", "audit", "bake", "calibrate", "clamp",
    "controls", "edited_direction", "edits", "estimators", "extract", "gates", "generate", "lda",
    "learn", "logistic", "mean_difference", "measures", "methods", "optimise", "pca", "rotate",
    "selectors", "side_by_side", "steer", "sweep", "texts", "when", "writers",
]  # fmt: skip

_get, __dir__ = lazy(
    __name__,
    {
        "interp._activations": ("activations",),
        "interp.models.places": ("writers",),
        "interp.probes": ("selectors",),
        "interp.steering._audit": ("audit", "edited_direction"),
        "interp.steering._bake": ("bake",),
        "interp.steering._controls": ("controls",),
        "interp.steering._direction": ("Direction",),
        "interp.steering._generate": ("generate", "texts"),
        "interp.steering._intervention": ("Intervention",),
        "interp.steering._steer": ("steer",),
        "interp.steering._optimise": ("learn", "optimise"),
        "interp.steering._side_by_side": ("side_by_side",),
        "interp.steering._sweep": ("sweep",),
        "interp.steering.edits": ("ablate", "add", "clamp", "rotate"),
        "interp.steering.extract": ("lda", "logistic", "mean_difference", "pca"),
        "interp.steering.measures": ("calibrate",),
    },
    ("edits", "estimators", "extract", "gates", "measures", "methods"),
)


def __getattr__(name: str) -> Any:
    if name == "when":
        from interp import positions

        return positions
    return _get(name)
