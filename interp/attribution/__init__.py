"""Estimates of activation patching: gradients, relevance, two-point slopes, and the direct path."""

from __future__ import annotations

from interp.attribution.attribute import attribute as attribute
from interp.attribution.capture import gradients as gradients
from interp.attribution.direct import direct as direct
from interp.attribution.relevance import relevance as relevance
from interp.attribution.rules import relevance_rules as relevance_rules
from interp.attribution.screen import screen as screen

__all__ = ["attribute", "direct", "gradients", "relevance", "relevance_rules", "screen"]
