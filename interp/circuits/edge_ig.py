"""Edge attribution by integrated gradients (Hanna et al. 2403.17806), in the variants of its published code.

| variant         | slopes are averaged over                                                              |
|-----------------|---------------------------------------------------------------------------------------|
| inputs          | runs whose input (the stream before the first block) is base + α (source − base)       |
| activations     | for the edges out of a part (the input, the heads of a layer, an MLP): runs in which    |
|                 | that part writes base + α (source − base), and all before it what it writes in the base |
| clean-corrupted | the two runs                                                                          |

For "inputs", `rule="left"` and direction "noise" the points are those of the published code, which leaves out
the corrupt end. Its "activations" averages the slopes of the runs of all parts for every edge; here each edge
has its own, so that the edges out of a part add up to the effect of replacing it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from interp.attribution.integrated import points
from interp.circuits.edge_methods import EdgeMethod
from interp.circuits.edge_passes import INPUT, EdgePasses, Passed, Place
from interp.circuits.edge_sums import Sums


def integrated(passes: EdgePasses, sums: Sums, method: EdgeMethod) -> tuple[Tensor, Passed, Passed]:
    """Scores [prompt, (pos,) writer, reader], and the base and source runs."""
    source = passes.plain(source=True)
    if method.variant == "clean-corrupted":
        return _two_ends(passes, sums, source)
    base = passes.plain(source=False)
    out, clean = sums.zeros(), (base if passes.runs.clean_is_base else source).picked
    paths = [(INPUT, slice(None))] if method.variant == "inputs" else _parts(sums)
    for place, rows in paths:
        start = base.values[place]
        change = source.values[place] - start
        for alpha, weight in points(method.steps, method.rule or "midpoint"):
            run = passes.graph(clean, replaced={place: start + alpha * change})
            sums.add(out, base, source, run, weight, rows)
    return out, base, source


def _two_ends(passes: EdgePasses, sums: Sums, source: Passed) -> tuple[Tensor, Passed, Passed]:
    out = sums.zeros()
    clean = None if passes.runs.clean_is_base else source.picked
    base = passes.graph(clean)
    sums.add(out, base, source, base, 0.5)
    clean = base.picked if passes.runs.clean_is_base else None
    sums.add(out, base, source, passes.graph(clean, source=True), 0.5)
    return out, base, source


def _parts(sums: Sums) -> Iterator[tuple[Place, slice]]:
    """The places whose writes are interpolated, with their writers."""
    yield INPUT, slice(0, 1)
    for layer, block in enumerate(sums.weights.blocks):
        yield ("z", layer), sums.spans.heads(layer)
        if block.mlp is not None:
            mlp = sums.spans.mlp(layer)
            yield ("mlp_out", layer), slice(mlp, mlp + 1)
