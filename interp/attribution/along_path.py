"""Integrated gradients: the mean slope over runs between base and source.

1. Run source and base, keeping activations and token embeddings.
2. For every point α of the path, run from base + α (source - base) in the embeddings, and go back once for
   every metric: the slopes of all places come together.
3. Weighted, the tables add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.attribution.integrated import BOTH_ENDS, points
from interp.attribution.one_pass import Tables, make_terms, tables
from interp.attribution.passes import Found, Passes
from interp.attribution.tables import Place
from interp.methods import IG

EMBED: Place = ("embed", 0)


def along_path(passes: Passes, places: Sequence[Place], method: IG) -> Found:
    """The estimates of every place."""
    needed = [*places, EMBED]
    source, base = passes.source(needed), passes.base(needed)
    start, change = base.values[EMBED], source.values[EMBED] - base.values[EMBED]
    terms = make_terms(passes, places, [], source, base.values)
    clean = passes.clean(base.picked, source.picked)
    total: Tables = {}
    ends_only = method.variant == "clean-corrupted"
    for alpha, weight in BOTH_ENDS if ends_only else points(method.steps, method.rule):
        graph = passes.graph(places, embeddings=start + alpha * change)
        here = tables(passes, graph, passes.measure(graph.picked, clean), terms, last=True)
        for place, table in here.items():
            total[place] = weight * table + total.get(place, 0.0)
    with torch.no_grad():
        ends = [passes.measure(run.picked, clean) for run in (base, source)]
    return Found([total], ends[0], ends[1], clean)
