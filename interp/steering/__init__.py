"""Steering: directions, interventions that hit the right token, and their side effects."""

from __future__ import annotations

from interp.steering import estimators as estimators
from interp.steering import selectors as selectors
from interp.steering.activations import activations as activations
from interp.steering.bake import Baked as Baked
from interp.steering.bake import bake as bake
from interp.steering.calibrate import Calibration as Calibration
from interp.steering.calibrate import calibrate as calibrate
from interp.steering.classes import class_means as class_means
from interp.steering.classes import kmeans as kmeans
from interp.steering.direction import Direction as Direction
from interp.steering.extract import extract as extract
from interp.steering.extract import lda as lda
from interp.steering.extract import logistic as logistic
from interp.steering.extract import mean_difference as mean_difference
from interp.steering.extract import null_cosines as null_cosines
from interp.steering.extract import pca as pca
from interp.steering.extract import weighted_mean as weighted_mean
from interp.steering.gates import Gate as Gate
from interp.steering.gates import controller as controller
from interp.steering.gates import cosine_gate as cosine_gate
from interp.steering.gates import probe_gate as probe_gate
from interp.steering.gates import rows as rows
from interp.steering.generate import generate as generate
from interp.steering.generate import texts as texts
from interp.steering.intervention import Intervention as Intervention
from interp.steering.interventions import ablate as ablate
from interp.steering.interventions import add as add
from interp.steering.interventions import affine as affine
from interp.steering.interventions import clamp as clamp
from interp.steering.interventions import gradient as gradient
from interp.steering.interventions import inject as inject
from interp.steering.interventions import rotate as rotate
from interp.steering.interventions import sae_delta as sae_delta
from interp.steering.interventions import scale_units as scale_units
from interp.steering.interventions import score_bias as score_bias
from interp.steering.interventions import set_units as set_units
from interp.steering.interventions import to_angle as to_angle
from interp.steering.lens import top_tokens as top_tokens
from interp.steering.measures import Entropy as Entropy
from interp.steering.measures import repetition as repetition
from interp.steering.optimise import learn as learn
from interp.steering.optimise import optimise as optimise
from interp.steering.places import writers as writers
from interp.steering.prompt_pair import prompt_pair as prompt_pair
from interp.steering.read_positions import before as before
from interp.steering.side_by_side import side_by_side as side_by_side
from interp.steering.steer import steer as steer
from interp.steering.steerability import select as select
from interp.steering.steerability import steerability as steerability
from interp.steering.steerability import summary as summary
from interp.steering.sweep import sweep as sweep
from interp.steering.when import When as When
from interp.steering.when import at as at
from interp.steering.when import everywhere as everywhere
from interp.steering.when import generated as generated
from interp.steering.when import mask as mask
from interp.steering.when import prompt_only as prompt_only
from interp.steering.when import tokens as tokens
from interp.steering.when import window as window

__all__ = [
    "Baked", "Calibration", "Direction", "Entropy", "Gate", "Intervention", "When", "ablate", "activations",
    "add", "affine", "at", "bake", "before", "calibrate", "clamp", "class_means", "controller",
    "cosine_gate", "estimators", "everywhere", "extract", "generate", "generated", "gradient", "inject",
    "kmeans", "lda", "learn", "logistic", "mask", "mean_difference", "null_cosines", "optimise", "pca",
    "probe_gate", "prompt_only", "prompt_pair", "repetition", "rotate", "rows", "sae_delta", "scale_units",
    "score_bias", "select", "selectors", "set_units", "side_by_side", "steer", "steerability", "summary",
    "sweep", "texts", "to_angle", "tokens", "top_tokens", "weighted_mean", "window", "writers",
]  # fmt: skip
