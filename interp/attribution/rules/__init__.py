"""Relevance rules: hooks that change slopes, and never a value."""

from __future__ import annotations

from interp.attribution.rules._places import Report as Report
from interp.attribution.rules._scope import check_hooks as check_hooks
from interp.attribution.rules._scope import relevance_rules as relevance_rules
from interp.attribution.rules._scope import ruled as ruled
