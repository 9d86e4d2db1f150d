"""Estimates from slopes of the metric: atp, the relevance methods, atp* and integrated gradients.

1. Run the source, keeping the activations of the places asked.
2. Run the base with its graph, under the method's rules.
3. One backward for every metric (with GradDrop one for every metric and layer): the slopes, and from them a
   table for every place.

Integrated gradients take the mean slope over runs whose embeddings lie on the straight path between both
runs': a run with its graph and a backward for every point, and the tables add up by the points' weights. The
straight path is that of the embeddings alone, so estimates add up to the metric's gap at the first cut of the
stream, as the number of points grows, and at later cuts only nearly. Sundararajan et al. 2017 (1703.01365);
for parity with EAP-IG (2403.17806): direction="noise", IG(rule="left").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from interp.attribution._atp_star import Gates, fixes
from interp.attribution._by_hooks import EMBED, Values
from interp.attribution._passes import Estimated, Graph, Passes, Plain
from interp.attribution._scoring import scorings
from interp.attribution._tables import Linear, Place, Term, live
from interp.methods import IG, AtpStar, Method
from interp.models import Anatomy, activation_shape

Tables = dict[Place, Tensor]  # [prompt, axis + 1, ..., metric]


def first_order(passes: Passes, places: Sequence[Place], method: Method) -> Estimated:
    """The estimates of every place."""
    star = method if isinstance(method, AtpStar) else None
    fixed = [place for place in places if star is not None and star.qk_fix and place[0] in ("q", "k")]
    needed = sorted({*places, *((site, layer) for _, layer in fixed for site in ("q", "k"))})
    extra = sorted({("pattern", layer) for _, layer in fixed})
    source = passes.source(needed)
    gates = Gates(passes.facts) if star is not None and star.grad_drop else None
    slopes = sorted({*places, *extra} - {*fixed})
    graph = passes.graph(
        slopes, sorted({*needed, *extra}), gates=gates.by_place if gates else None, rules=method.rules
    )
    terms = make_terms(passes, places, fixed, source, graph.values)
    clean = passes.clean(graph.picked, source.picked)
    base = passes.measure(graph.picked, clean)
    with torch.no_grad():
        measured = passes.measure(source.picked, clean)
    drops: list[int | None] = [None] if gates is None else list(range(passes.facts.n_layers))
    dropped = []
    for number, shut in enumerate(drops):
        if gates is not None:
            gates.shut = shut
        dropped.append(tables(passes, graph, base, terms, last=number == len(drops) - 1))
    return Estimated(dropped, base.detach(), measured, clean)


def tables(passes: Passes, graph: Graph, base: Tensor, terms: Sequence[Term], last: bool) -> Tables:
    """The table of every term: one backward for every metric. `last`: the graph is not needed again."""
    n_metrics = base.shape[1]
    by_metric = []
    for number in range(n_metrics):
        slopes = graph.slopes(base[:, number], keep_graph=not (last and number == n_metrics - 1))
        passes.tick(1)
        _require_finite(slopes)
        with torch.no_grad():
            by_metric.append({term.place: term.table(slopes[term.needs]) for term in terms})
        del slopes
    return {place: torch.stack([each[place] for each in by_metric], -1) for place in by_metric[0]}


def _require_finite(slopes: Mapping[Place, Tensor]) -> None:
    for (site, layer), slope in slopes.items():
        if not bool(torch.isfinite(slope).all()):
            raise ValueError(
                f"the slope of the metric at L{layer}.{site} is not finite, in {slope.dtype}. Use a wider "
                "dtype (float32, or bfloat16 for float16), or a metric that stays finite."
            )


def make_terms(
    passes: Passes, places: Sequence[Place], fixed: Sequence[Place], source: Plain, base: Values
) -> list[Term]:
    """A term for every place: exact in the pattern for those that are `fixed`, else first order."""
    first = _first_change(passes)
    for place in places:
        _require_shape(passes.facts, place, base[place])
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
                terms += fixes(every[layer], sites, mine, other, passes.runs.spans)
    return terms


def _require_shape(facts: Anatomy, place: Place, tensor: Tensor) -> None:
    """Raise ValueError for a hook point that holds something else than its site's name says."""
    site, n_pos = place[0], tensor.shape[2 if place[0] == "pattern" else 1]
    expected = activation_shape(facts, site, n_pos)
    if tuple(tensor.shape[1:]) != expected:
        raise ValueError(
            f"L{place[1]}.{site} of {facts.name} has shape {list(tensor.shape[1:])} for a prompt, and "
            f"{list(expected)} is what its name says: it is another thing. Use another site."
        )


def _first_change(passes: Passes) -> Int[Tensor, "prompt"]:
    """First position at which the runs can differ; attention that looks ahead spreads a change at once."""
    first, n_pos = passes.runs.first_change(), passes.runs.n_pos
    return first if passes.facts.causal else torch.where(first < n_pos, 0, n_pos)


def _settled(source: Values, base: Values, place: Place, first: Tensor) -> Tensor:
    """The source's activation from the first change on, the base's before it."""
    own = base[place]
    later = live(place[0], first.to(own.device), own.shape[1])[..., None]  # [prompt, pos, 1, 1]
    return torch.where(later, source[place], own)


def along_path(passes: Passes, places: Sequence[Place], method: IG) -> Estimated:
    """The estimates of every place by integrated gradients."""
    needed = [*places, EMBED]
    source, base = passes.source(needed), passes.base(needed)
    start, change = base.values[EMBED], source.values[EMBED] - base.values[EMBED]
    terms = make_terms(passes, places, [], source, base.values)
    clean = passes.clean(base.picked, source.picked)
    total: Tables = {}
    for alpha, weight in method.points():
        graph = passes.graph(places, embeddings=start + alpha * change)
        point = tables(passes, graph, passes.measure(graph.picked, clean), terms, last=True)
        for place, table in point.items():
            total[place] = weight * table + total.get(place, 0.0)
    with torch.no_grad():
        ends = [passes.measure(run.picked, clean) for run in (base, source)]
    return Estimated([total], ends[0], ends[1], clean)
