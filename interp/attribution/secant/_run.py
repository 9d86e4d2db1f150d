"""Secant coefficients: slopes between the two runs, in place of the slope at one of them.

1. Run the source, keeping what every norm, activation and attention reads.
2. Run the base with its graph; every step hands on its own value with the slope between both runs
   (`_slopes`, `_hooks`), and so does the metric.
3. One backward for every metric.

Complete: at every cut of the residual stream the estimates add up to metric(source) - metric(base), up to the
residual of the softmax's path, which the result reports. Antisymmetric: exchanging the runs negates them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp._verbs import warn
from interp.attribution._first_order import make_terms, tables
from interp.attribution._passes import Estimated, Passes
from interp.attribution._tables import Place
from interp.attribution.secant._hooks import TwoRuns
from interp.attribution.secant._metric import metric_path

CUT: Place = ("resid_pre", 0)
_INCOMPLETE = 0.01  # of the metric's gap
_ROUNDING = 1e-5  # of the metric: norms inside a bridge compute in float32


def secant(passes: Passes, places: Sequence[Place]) -> Estimated:
    """The estimates of every place."""
    every = sorted({*places, CUT})
    two = TwoRuns(passes.model, passes.facts)
    with two.watch():
        source = passes.source(every)
    with two.attached():
        graph = passes.graph(every, every, gates=two.gates)
    clean = passes.clean(graph.picked, source.picked)
    cap = float(getattr(passes.model.cfg, "output_logits_soft_cap", None) or -1.0)
    base, left = metric_path(lambda x: passes.measure(x, clean), graph.picked, source.picked, cap)
    terms = make_terms(passes, every, [], source, graph.values)
    by_place = tables(passes, graph, base, terms, last=True)
    with torch.no_grad():
        measured = passes.measure(source.picked, clean)
    gap = (by_place[CUT][:, -1] - (measured - base.detach())).abs()  # [prompt, metric]
    whole = measured - base.detach()
    _require_complete(gap, whole, base.detach(), passes.facts.dtype.itemsize >= 4)
    notes = {"softmax_residual": two.residual, "metric_residual": left, "completeness": float(gap.max())}
    return Estimated([by_place], base.detach(), measured, clean, notes)


def _require_complete(gap: Tensor, whole: Tensor, base: Tensor, wide: bool) -> None:
    """The estimates of the first cut must add up to the metric's change; half precision is only warned of."""
    if float(gap.max()) <= _INCOMPLETE * float(whole.abs().max()) + _ROUNDING * float(base.abs().max()):
        return
    message = (
        f"secant estimates miss the metric's change by up to {float(gap.max()):.2g} of "
        f"{float(whole.abs().max()):.2g}: some step of the model is not covered, or precision is low."
    )
    if wide:
        raise ValueError(f"{message} Use a method that needs only slopes (atp, ig, relp).")
    warn(message)
