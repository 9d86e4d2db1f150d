"""Steering methods of papers, each a short function on the pieces of `interp.steering`.

Every module says the method, its sign and units, its paper and its cost. The first use of a name loads its
module.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.steering.methods.actadd import actadd as actadd
    from interp.steering.methods.angular import SteeringPlane as SteeringPlane
    from interp.steering.methods.angular import steering_plane as steering_plane
    from interp.steering.methods.austeer import Dimensions as Dimensions
    from interp.steering.methods.austeer import austeer as austeer
    from interp.steering.methods.austeer import momentum as momentum
    from interp.steering.methods.bias import bias_direction as bias_direction
    from interp.steering.methods.bias import probe_sweep as probe_sweep
    from interp.steering.methods.caa import ablate_everywhere as ablate_everywhere
    from interp.steering.methods.caa import add_after_prompt as add_after_prompt
    from interp.steering.methods.caa import caa as caa
    from interp.steering.methods.cast import Condition as Condition
    from interp.steering.methods.cast import best_threshold as best_threshold
    from interp.steering.methods.cast import cast as cast
    from interp.steering.methods.cast import cast_condition as cast_condition
    from interp.steering.methods.class_neurons import Bounds as Bounds
    from interp.steering.methods.class_neurons import ClassScores as ClassScores
    from interp.steering.methods.class_neurons import class_neurons as class_neurons
    from interp.steering.methods.class_neurons import class_scores as class_scores
    from interp.steering.methods.effects import measure as measure
    from interp.steering.methods.expert_units import ExpertUnits as ExpertUnits
    from interp.steering.methods.expert_units import aura_factors as aura_factors
    from interp.steering.methods.expert_units import expert_units as expert_units
    from interp.steering.methods.instaboost import boost_attention as boost_attention
    from interp.steering.methods.iti import HeadShifts as HeadShifts
    from interp.steering.methods.iti import fit_heads as fit_heads
    from interp.steering.methods.iti import head_shifts as head_shifts
    from interp.steering.methods.layer_choice import layer_effects as layer_effects
    from interp.steering.methods.layer_choice import lens_divergence as lens_divergence
    from interp.steering.methods.layer_choice import select_layer as select_layer
    from interp.steering.methods.linear_act import LinearAct as LinearAct
    from interp.steering.methods.linear_act import linear_act as linear_act
    from interp.steering.methods.linear_act import transport_map as transport_map
    from interp.steering.methods.moral import MoralDirection as MoralDirection
    from interp.steering.methods.moral import moral_direction as moral_direction
    from interp.steering.methods.neurons import Neurons as Neurons
    from interp.steering.methods.neurons import neuron_activations as neuron_activations
    from interp.steering.methods.neurons import top_neurons as top_neurons
    from interp.steering.methods.reading import control_vector as control_vector
    from interp.steering.methods.reading import effect_curves as effect_curves
    from interp.steering.methods.relation_neurons import average_precision as average_precision
    from interp.steering.methods.relation_neurons import cumulativity as cumulativity
    from interp.steering.methods.relation_neurons import interference as interference
    from interp.steering.methods.relation_neurons import relation_neurons as relation_neurons
    from interp.steering.methods.selectivity import Accuracy as Accuracy
    from interp.steering.methods.selectivity import selectivity as selectivity
    from interp.steering.methods.style import style_differences as style_differences
    from interp.steering.methods.style import style_vectors as style_vectors
    from interp.steering.methods.two_positions import LatentGuard as LatentGuard
    from interp.steering.methods.two_positions import cross_effects as cross_effects
    from interp.steering.methods.two_positions import harm_and_refusal as harm_and_refusal
    from interp.steering.methods.two_positions import latent_guard as latent_guard

_LAZY = {
    "Accuracy": "selectivity",
    "Bounds": "class_neurons",
    "ClassScores": "class_neurons",
    "Condition": "cast",
    "Dimensions": "austeer",
    "ExpertUnits": "expert_units",
    "HeadShifts": "iti",
    "LatentGuard": "two_positions",
    "LinearAct": "linear_act",
    "MoralDirection": "moral",
    "Neurons": "neurons",
    "SteeringPlane": "angular",
    "ablate_everywhere": "caa",
    "actadd": "actadd",
    "add_after_prompt": "caa",
    "aura_factors": "expert_units",
    "austeer": "austeer",
    "average_precision": "relation_neurons",
    "best_threshold": "cast",
    "bias_direction": "bias",
    "boost_attention": "instaboost",
    "caa": "caa",
    "cast": "cast",
    "cast_condition": "cast",
    "class_neurons": "class_neurons",
    "class_scores": "class_neurons",
    "control_vector": "reading",
    "cross_effects": "two_positions",
    "cumulativity": "relation_neurons",
    "effect_curves": "reading",
    "expert_units": "expert_units",
    "fit_heads": "iti",
    "harm_and_refusal": "two_positions",
    "head_shifts": "iti",
    "interference": "relation_neurons",
    "latent_guard": "two_positions",
    "layer_effects": "layer_choice",
    "lens_divergence": "layer_choice",
    "linear_act": "linear_act",
    "measure": "effects",
    "momentum": "austeer",
    "moral_direction": "moral",
    "neuron_activations": "neurons",
    "probe_sweep": "bias",
    "relation_neurons": "relation_neurons",
    "select_layer": "layer_choice",
    "selectivity": "selectivity",
    "steering_plane": "angular",
    "style_differences": "style",
    "style_vectors": "style",
    "top_neurons": "neurons",
    "transport_map": "linear_act",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`methods.caa` is the function, also after its module of the same name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _LAZY and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
