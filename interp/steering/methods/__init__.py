"""Steering methods of papers, each a short function on the pieces of `interp.steering`.

Every module says the method, its sign and units, its paper and its cost. The first use of a name loads its
module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.steering.methods._actadd import actadd as actadd
    from interp.steering.methods._actadd import prompt_pair as prompt_pair
    from interp.steering.methods._angular import SteeringPlane as SteeringPlane
    from interp.steering.methods._angular import steering_plane as steering_plane
    from interp.steering.methods._attack import attack_scaling as attack_scaling
    from interp.steering.methods._attention_knockout import attention_knockout as attention_knockout
    from interp.steering.methods._austeer import Dimensions as Dimensions
    from interp.steering.methods._austeer import austeer as austeer
    from interp.steering.methods._austeer import momentum as momentum
    from interp.steering.methods._baselines import RankOne as RankOne
    from interp.steering.methods._baselines import compare as compare
    from interp.steering.methods._baselines import prefixed as prefixed
    from interp.steering.methods._baselines import rank_one_adapter as rank_one_adapter
    from interp.steering.methods._baselines import tuned_bias as tuned_bias
    from interp.steering.methods._bias import bias_direction as bias_direction
    from interp.steering.methods._bias import probe_sweep as probe_sweep
    from interp.steering.methods._caa import ablate_everywhere as ablate_everywhere
    from interp.steering.methods._caa import add_after_prompt as add_after_prompt
    from interp.steering.methods._caa import caa as caa
    from interp.steering.methods._cast import Condition as Condition
    from interp.steering.methods._cast import best_threshold as best_threshold
    from interp.steering.methods._cast import cast as cast
    from interp.steering.methods._cast import cast_condition as cast_condition
    from interp.steering.methods._class_neurons import Bounds as Bounds
    from interp.steering.methods._class_neurons import ClassScores as ClassScores
    from interp.steering.methods._class_neurons import class_neurons as class_neurons
    from interp.steering.methods._class_neurons import class_scores as class_scores
    from interp.steering.methods._east import covariance_direction as covariance_direction
    from interp.steering.methods._east import east as east
    from interp.steering.methods._examples import example_effects as example_effects
    from interp.steering.methods._expert_switch import expert_scores as expert_scores
    from interp.steering.methods._expert_switch import switch_experts as switch_experts
    from interp.steering.methods._expert_switch import top_experts as top_experts
    from interp.steering.methods._expert_units import ExpertUnits as ExpertUnits
    from interp.steering.methods._expert_units import aura_factors as aura_factors
    from interp.steering.methods._expert_units import expert_units as expert_units
    from interp.steering.methods._gact import Centroids as Centroids
    from interp.steering.methods._gact import gact as gact
    from interp.steering.methods._guiding import Controller as Controller
    from interp.steering.methods._guiding import guiding_giants as guiding_giants
    from interp.steering.methods._instaboost import boost_attention as boost_attention
    from interp.steering.methods._introspection import concept_vectors as concept_vectors
    from interp.steering.methods._introspection import introspection as introspection
    from interp.steering.methods._iti import HeadShifts as HeadShifts
    from interp.steering.methods._iti import fit_heads as fit_heads
    from interp.steering.methods._iti import head_shifts as head_shifts
    from interp.steering.methods._k_steering import Labels as Labels
    from interp.steering.methods._k_steering import k_steering as k_steering
    from interp.steering.methods._layer_choice import layer_effects as layer_effects
    from interp.steering.methods._layer_choice import lens_divergence as lens_divergence
    from interp.steering.methods._layer_choice import select_layer as select_layer
    from interp.steering.methods._linear_act import LinearAct as LinearAct
    from interp.steering.methods._linear_act import linear_act as linear_act
    from interp.steering.methods._linear_act import transport_map as transport_map
    from interp.steering.methods._lineas import lineas as lineas
    from interp.steering.methods._manifold import Manifold as Manifold
    from interp.steering.methods._manifold import manifold as manifold
    from interp.steering.methods._manifold import manifold_of as manifold_of
    from interp.steering.methods._manifold import manifold_paths as manifold_paths
    from interp.steering.methods._manifold_outputs import invert_outputs as invert_outputs
    from interp.steering.methods._manifold_outputs import output_curve as output_curve
    from interp.steering.methods._measure import measure as measure
    from interp.steering.methods._metacognition import control_effect as control_effect
    from interp.steering.methods._metacognition import quantile_labels as quantile_labels
    from interp.steering.methods._metacognition import report as report
    from interp.steering.methods._moral import MoralDirection as MoralDirection
    from interp.steering.methods._moral import moral_direction as moral_direction
    from interp.steering.methods._neurons import Neurons as Neurons
    from interp.steering.methods._neurons import neuron_activations as neuron_activations
    from interp.steering.methods._neurons import top_neurons as top_neurons
    from interp.steering.methods._rast import rast as rast
    from interp.steering.methods._reading import control_vector as control_vector
    from interp.steering.methods._reading import effect_curves as effect_curves
    from interp.steering.methods._relation_neurons import average_precision as average_precision
    from interp.steering.methods._relation_neurons import cumulativity as cumulativity
    from interp.steering.methods._relation_neurons import interference as interference
    from interp.steering.methods._relation_neurons import relation_neurons as relation_neurons
    from interp.steering.methods._resistance import noisy_root as noisy_root
    from interp.steering.methods._resistance import resistance as resistance
    from interp.steering.methods._resistance import returns as returns
    from interp.steering.methods._resistance import under_shift as under_shift
    from interp.steering.methods._selectivity import Accuracy as Accuracy
    from interp.steering.methods._selectivity import selectivity as selectivity
    from interp.steering.methods._shared_neurons import shared_neurons as shared_neurons
    from interp.steering.methods._sinks import remove_sink as remove_sink
    from interp.steering.methods._sinks import sink_effect as sink_effect
    from interp.steering.methods._skills import Skills as Skills
    from interp.steering.methods._skills import native_skills as native_skills
    from interp.steering.methods._skills import rank_skills as rank_skills
    from interp.steering.methods._small_vectors import AdaptiveVector as AdaptiveVector
    from interp.steering.methods._small_vectors import adaptive_vector as adaptive_vector
    from interp.steering.methods._small_vectors import transfer as transfer
    from interp.steering.methods._small_vectors import vector_paths as vector_paths
    from interp.steering.methods._span_bias import bias_attention as bias_attention
    from interp.steering.methods._span_bias import pattern_heads as pattern_heads
    from interp.steering.methods._style import style_differences as style_differences
    from interp.steering.methods._style import style_vectors as style_vectors
    from interp.steering.methods._transport import Transport as Transport
    from interp.steering.methods._transport import gaussian_map as gaussian_map
    from interp.steering.methods._transport import gaussian_ot as gaussian_ot
    from interp.steering.methods._transport import sliced_wasserstein as sliced_wasserstein
    from interp.steering.methods._two_positions import LatentGuard as LatentGuard
    from interp.steering.methods._two_positions import cross_effects as cross_effects
    from interp.steering.methods._two_positions import harm_and_refusal as harm_and_refusal
    from interp.steering.methods._two_positions import latent_guard as latent_guard
    from interp.steering.methods._weight_edits import WeightEdits as WeightEdits
    from interp.steering.methods._weight_edits import link as link
    from interp.steering.methods._weight_edits import redirect as redirect
    from interp.steering.methods._weight_edits import steer2edit as steer2edit

__all__ = [
    "Accuracy", "AdaptiveVector", "Bounds", "Centroids", "ClassScores", "Condition", "Controller",
    "Dimensions", "ExpertUnits", "HeadShifts", "Labels", "LatentGuard", "LinearAct", "Manifold",
    "MoralDirection", "Neurons", "RankOne", "Skills", "SteeringPlane", "Transport", "WeightEdits",
    "ablate_everywhere", "actadd", "adaptive_vector", "add_after_prompt", "attack_scaling",
    "attention_knockout", "aura_factors", "austeer", "average_precision", "best_threshold",
    "bias_attention", "bias_direction", "boost_attention", "caa", "cast", "cast_condition", "class_neurons",
    "class_scores", "compare", "concept_vectors", "control_effect", "control_vector",
    "covariance_direction", "cross_effects", "cumulativity", "east", "effect_curves", "example_effects",
    "expert_scores", "expert_units", "fit_heads", "gact", "gaussian_map", "gaussian_ot", "guiding_giants",
    "harm_and_refusal", "head_shifts", "interference", "introspection", "invert_outputs", "k_steering",
    "latent_guard", "layer_effects", "lens_divergence", "linear_act", "lineas", "link", "manifold",
    "manifold_of", "manifold_paths", "measure", "momentum", "moral_direction", "native_skills",
    "neuron_activations", "noisy_root", "output_curve", "pattern_heads", "prefixed", "probe_sweep",
    "prompt_pair", "quantile_labels", "rank_one_adapter", "rank_skills", "rast", "redirect",
    "relation_neurons", "remove_sink", "report", "resistance", "returns", "select_layer", "selectivity",
    "shared_neurons", "sink_effect", "sliced_wasserstein", "steer2edit", "steering_plane",
    "style_differences", "style_vectors", "switch_experts", "top_experts", "top_neurons", "transfer",
    "transport_map", "tuned_bias", "under_shift", "vector_paths",
]  # fmt: skip

__getattr__, __dir__ = lazy(
    __name__,
    {
        "interp.steering.methods._attention_knockout": ("attention_knockout",),
        "interp.steering.methods._expert_switch": ("expert_scores", "switch_experts", "top_experts"),
        "interp.steering.methods._rast": ("rast",),
        "interp.steering.methods._shared_neurons": ("shared_neurons",),
        "interp.steering.methods._sinks": ("remove_sink", "sink_effect"),
        "interp.steering.methods._span_bias": ("bias_attention", "pattern_heads"),
        "interp.steering.methods._actadd": (
            "actadd",
            "prompt_pair",
        ),
        "interp.steering.methods._angular": (
            "SteeringPlane",
            "steering_plane",
        ),
        "interp.steering.methods._attack": ("attack_scaling",),
        "interp.steering.methods._measure": ("measure",),
        "interp.steering.methods._austeer": (
            "Dimensions",
            "austeer",
            "momentum",
        ),
        "interp.steering.methods._baselines": (
            "RankOne",
            "compare",
            "prefixed",
            "rank_one_adapter",
            "tuned_bias",
        ),
        "interp.steering.methods._bias": (
            "bias_direction",
            "probe_sweep",
        ),
        "interp.steering.methods._caa": (
            "ablate_everywhere",
            "add_after_prompt",
            "caa",
        ),
        "interp.steering.methods._cast": (
            "Condition",
            "best_threshold",
            "cast",
            "cast_condition",
        ),
        "interp.steering.methods._class_neurons": (
            "Bounds",
            "ClassScores",
            "class_neurons",
            "class_scores",
        ),
        "interp.steering.methods._east": (
            "covariance_direction",
            "east",
        ),
        "interp.steering.methods._examples": ("example_effects",),
        "interp.steering.methods._expert_units": (
            "ExpertUnits",
            "aura_factors",
            "expert_units",
        ),
        "interp.steering.methods._gact": (
            "Centroids",
            "gact",
        ),
        "interp.steering.methods._guiding": (
            "Controller",
            "guiding_giants",
        ),
        "interp.steering.methods._instaboost": ("boost_attention",),
        "interp.steering.methods._introspection": (
            "concept_vectors",
            "introspection",
        ),
        "interp.steering.methods._iti": (
            "HeadShifts",
            "fit_heads",
            "head_shifts",
        ),
        "interp.steering.methods._k_steering": (
            "Labels",
            "k_steering",
        ),
        "interp.steering.methods._layer_choice": (
            "layer_effects",
            "lens_divergence",
            "select_layer",
        ),
        "interp.steering.methods._linear_act": (
            "LinearAct",
            "linear_act",
            "transport_map",
        ),
        "interp.steering.methods._lineas": ("lineas",),
        "interp.steering.methods._manifold": (
            "Manifold",
            "manifold",
            "manifold_of",
            "manifold_paths",
        ),
        "interp.steering.methods._manifold_outputs": (
            "invert_outputs",
            "output_curve",
        ),
        "interp.steering.methods._metacognition": (
            "control_effect",
            "quantile_labels",
            "report",
        ),
        "interp.steering.methods._moral": (
            "MoralDirection",
            "moral_direction",
        ),
        "interp.steering.methods._neurons": (
            "Neurons",
            "neuron_activations",
            "top_neurons",
        ),
        "interp.steering.methods._reading": (
            "control_vector",
            "effect_curves",
        ),
        "interp.steering.methods._relation_neurons": (
            "average_precision",
            "cumulativity",
            "interference",
            "relation_neurons",
        ),
        "interp.steering.methods._resistance": (
            "noisy_root",
            "resistance",
            "returns",
            "under_shift",
        ),
        "interp.steering.methods._selectivity": (
            "Accuracy",
            "selectivity",
        ),
        "interp.steering.methods._skills": (
            "Skills",
            "native_skills",
            "rank_skills",
        ),
        "interp.steering.methods._small_vectors": (
            "AdaptiveVector",
            "adaptive_vector",
            "transfer",
            "vector_paths",
        ),
        "interp.steering.methods._style": (
            "style_differences",
            "style_vectors",
        ),
        "interp.steering.methods._transport": (
            "Transport",
            "gaussian_map",
            "gaussian_ot",
            "sliced_wasserstein",
        ),
        "interp.steering.methods._two_positions": (
            "LatentGuard",
            "cross_effects",
            "harm_and_refusal",
            "latent_guard",
        ),
        "interp.steering.methods._weight_edits": (
            "WeightEdits",
            "link",
            "redirect",
            "steer2edit",
        ),
    },
)
