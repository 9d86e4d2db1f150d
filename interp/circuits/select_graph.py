"""The graph that a result about edges belongs to, from the names of its writers and readers."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.circuits.graph import Graph


def graph_of(scores: xr.Dataset) -> Graph:
    """The graph. Raises ValueError for something that is not a result about all edges of a graph."""
    if "value" not in scores or not {"writer", "reader"} <= set(scores["value"].dims):
        raise ValueError(
            f"expected scores with dims writer and reader, got {list(scores.sizes)}. Use score_edges."
        )
    writers, readers = ([str(name) for name in scores[dim].values] for dim in ("writer", "reader"))
    heads = sum(name.startswith("a0.") for name in writers)
    shared = sum(name.startswith("a0.") and name.endswith("<k>") for name in readers)
    layers = len({name.split(".")[0] for name in writers if name.startswith("a")})
    if not heads or not shared:
        raise ValueError(
            f"the writers are {writers[:3]}... and the readers {readers[:3]}...: not those of a graph."
        )
    mlps = "m0" in writers
    graph = Graph(layers, heads, shared, attn_only=not mlps, parallel=mlps and _parallel(scores))
    if list(graph.writers) != writers or list(graph.readers) != readers:
        raise ValueError(
            f"the scores are of {len(writers)} writers and {len(readers)} readers, and a model of {graph} "
            f"has {len(graph.writers)} and {len(graph.readers)}. Select from scores of all edges, in order."
        )
    return graph


def _parallel(scores: xr.Dataset) -> bool:
    """Whether attention and MLP of a layer read the same stream: then there is no edge between them."""
    return bool(np.isnan(scores["value"].sel(writer="a0.h0", reader="m0")).all())
