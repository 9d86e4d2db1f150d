"""Circuits: the graph of a model, sets of its edges, and how they are found and judged.

| step         | names                                                                        | where      |
|--------------|------------------------------------------------------------------------------|------------|
| cut edges    | `run`                                                                        | `_run/`    |
| score edges  | `score_edges`, `score_nodes`, `exact`                                        | `_score/`  |
| combine      | `ensemble`, `stability`                                                      | `_combine` |
| select       | `top`, `threshold`, `greedy`, `connected`, `stable`, `prune`                 | `_select`  |
| search       | `acdc`, `acdc_sweep`, `trace`, `train_mask`                                  | `_search/` |
| judge        | `evaluate`, `curve`, `neuron_curve`, `random_baseline`, `hypothesis_tests`   | `_judge/`  |
|              | `compare`, `roc`                                                             |            |
| things       | `Graph`, `Circuit`, `known`, `known_names`                                   | here       |

Importing this package loads no torch; the first use of a name that needs it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.circuits._circuit import Circuit as Circuit
    from interp.circuits._combine import ensemble as ensemble
    from interp.circuits._combine import stability as stability
    from interp.circuits._combine import stable as stable
    from interp.circuits._connected import connected as connected
    from interp.circuits._graph import Graph as Graph
    from interp.circuits._judge.curves import curve as curve
    from interp.circuits._judge.curves import random_baseline as random_baseline
    from interp.circuits._judge.evaluate import evaluate as evaluate
    from interp.circuits._judge.hypotheses import hypothesis_tests as hypothesis_tests
    from interp.circuits._judge.neurons import neuron_curve as neuron_curve
    from interp.circuits._judge.overlap import compare as compare
    from interp.circuits._judge.overlap import roc as roc
    from interp.circuits._known import known as known
    from interp.circuits._known import known_names as known_names
    from interp.circuits._run.batch import run as run
    from interp.circuits._score.edges import score_edges as score_edges
    from interp.circuits._score.edges import score_nodes as score_nodes
    from interp.circuits._score.exact import exact as exact
    from interp.circuits._search.acdc import acdc as acdc
    from interp.circuits._search.acdc import acdc_sweep as acdc_sweep
    from interp.circuits._search.decisions import trace as trace
    from interp.circuits._search.masks import train_mask as train_mask
    from interp.circuits._select import greedy as greedy
    from interp.circuits._select import prune as prune
    from interp.circuits._select import threshold as threshold
    from interp.circuits._select import top as top

_EXPORTS = {
    "interp.circuits._circuit": ("Circuit",),
    "interp.circuits._combine": ("ensemble", "stability", "stable"),
    "interp.circuits._connected": ("connected",),
    "interp.circuits._graph": ("Graph",),
    "interp.circuits._judge.curves": ("curve", "random_baseline"),
    "interp.circuits._judge.evaluate": ("evaluate",),
    "interp.circuits._judge.hypotheses": ("hypothesis_tests",),
    "interp.circuits._judge.neurons": ("neuron_curve",),
    "interp.circuits._judge.overlap": ("compare", "roc"),
    "interp.circuits._known": ("known", "known_names"),
    "interp.circuits._run.batch": ("run",),
    "interp.circuits._score.edges": ("score_edges", "score_nodes"),
    "interp.circuits._score.exact": ("exact",),
    "interp.circuits._search.acdc": ("acdc", "acdc_sweep"),
    "interp.circuits._search.decisions": ("trace",),
    "interp.circuits._search.masks": ("train_mask",),
    "interp.circuits._select": ("greedy", "prune", "threshold", "top"),
}

__all__ = [
    "Circuit",
    "Graph",
    "acdc",
    "acdc_sweep",
    "compare",
    "connected",
    "curve",
    "ensemble",
    "evaluate",
    "exact",
    "greedy",
    "hypothesis_tests",
    "known",
    "known_names",
    "neuron_curve",
    "prune",
    "random_baseline",
    "roc",
    "run",
    "score_edges",
    "score_nodes",
    "stability",
    "stable",
    "threshold",
    "top",
    "trace",
    "train_mask",
]

__getattr__, __dir__ = lazy(__name__, _EXPORTS)
