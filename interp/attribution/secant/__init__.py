"""Two-point slopes: `secant` estimates cells, `TwoRuns` and `metric_path` give any pass such slopes."""

from __future__ import annotations

from interp.attribution.secant._hooks import TwoRuns as TwoRuns
from interp.attribution.secant._metric import metric_path as metric_path
from interp.attribution.secant._run import secant as secant
