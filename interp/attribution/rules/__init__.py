"""Relevance rules: what changes slopes, and never a value: hooks on a model, and parts of its weights."""

from __future__ import annotations

from interp.attribution.rules._parts import frozen_norm as frozen_norm
from interp.attribution.rules._parts import ruled_weights as ruled_weights
from interp.attribution.rules._places import Report as Report
from interp.attribution.rules._scope import check_hooks as check_hooks
from interp.attribution.rules._scope import check_rules as check_rules
from interp.attribution.rules._scope import relevance_rules as relevance_rules
from interp.attribution.rules._scope import ruled as ruled
