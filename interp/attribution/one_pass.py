"""Estimates from one pass with a graph: atp, atp*, and the relevance methods.

1. Run the source, keeping the activations of the places asked.
2. Run the base with its graph, under the method's rules.
3. One backward for every metric (with GradDrop one for every metric and layer): the slopes, and from them a
   table for every place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.attribution.capture import ruled
from interp.attribution.grad_drop import Gates
from interp.attribution.passes import Found, Graph, Passes, Plain, Values
from interp.attribution.qk_fix import fixes
from interp.attribution.scoring import scorings
from interp.attribution.tables import Place, live
from interp.attribution.terms import Linear, Term
from interp.methods import AtpStar, Method

Tables = dict[Place, Tensor]  # [prompt, axis + 1, ..., metric]


def one_pass(passes: Passes, places: Sequence[Place], method: Method) -> Found:
    """The estimates of every place."""
    star = method if isinstance(method, AtpStar) else None
    fixed = [place for place in places if star is not None and star.qk_fix and place[0] in ("q", "k")]
    needed = sorted({*places, *((site, layer) for _, layer in fixed for site in ("q", "k"))})
    extra = sorted({("pattern", layer) for _, layer in fixed})
    source = passes.source(needed)
    gates = Gates(passes.facts) if star is not None and star.grad_drop else None
    slopes = sorted({*places, *extra} - {*fixed})
    with ruled(passes.model, method.rules):
        graph = passes.graph(slopes, sorted({*needed, *extra}), gates=gates.hooks if gates else ())
    terms = make_terms(passes, places, fixed, source, graph.values)
    clean = passes.clean(graph.picked, source.picked)
    base = passes.measure(graph.picked, clean)
    with torch.no_grad():
        measured = passes.measure(source.picked, clean)
    drops: list[int | None] = [None] if gates is None else list(range(passes.facts.n_layers))
    found = []
    for number, shut in enumerate(drops):
        if gates is not None:
            gates.shut = shut
        found.append(tables(passes, graph, base, terms, last=number == len(drops) - 1))
    return Found(found, base.detach(), measured, clean)


def tables(passes: Passes, graph: Graph, base: Tensor, terms: Sequence[Term], last: bool) -> Tables:
    """The table of every term: one backward for every metric. `last`: the graph is not needed again."""
    n_metrics = base.shape[1]
    by_metric = []
    for number in range(n_metrics):
        slopes = graph.slopes(base[:, number], keep_graph=not (last and number == n_metrics - 1))
        passes.tick(1)
        with torch.no_grad():
            by_metric.append({term.place: term.table(slopes[term.needs]) for term in terms})
        del slopes
    return {place: torch.stack([one[place] for one in by_metric], -1) for place in by_metric[0]}


def make_terms(
    passes: Passes, places: Sequence[Place], fixed: Sequence[Place], source: Plain, base: Values
) -> list[Term]:
    """A term for every place: exact in the pattern for those that are `fixed`, else first order."""
    first = passes.runs.first_change()
    terms: list[Term] = [
        Linear(place, source.values[place], base[place], first) for place in places if place not in fixed
    ]
    if fixed:
        every = scorings(passes.model, passes.facts)
        for layer in sorted({layer for _, layer in fixed}):
            sites = {site for site, at in fixed if at == layer}
            mine = {site: base[site, layer] for site in ("q", "k", "pattern")}
            other = {site: _settled(source.values, base, (site, layer), first) for site in ("q", "k")}
            with torch.no_grad():
                terms += fixes(every[layer], sites, mine, other)
    return terms


def _settled(source: Values, base: Values, place: Place, first: Tensor) -> Tensor:
    """The source's activation from the first change on, the base's before it."""
    later = live(place[0], first, base[place].shape[1])[..., None]  # [prompt, pos, 1, 1]
    return torch.where(later, source[place], base[place])
