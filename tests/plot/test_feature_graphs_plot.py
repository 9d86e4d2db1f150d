"""Pictures of contexts and of circuits over features hold what the results hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import interp
from interp import sae


def axes(place: str) -> sae.Dictionary:
    both = torch.cat((torch.eye(64), -torch.eye(64)))
    return sae.Dictionary(both.T, torch.zeros(128), both, torch.zeros(64), place=place)


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


def test_contexts_are_drawn_as_shares_of_the_largest(model: Any) -> None:
    found = sae.contexts(model, axes("L1.resid_pre"), interp.tasks.ioi(model, n=8), [3, 5], top=3, window=2)
    fig = interp.plot.contexts(found)
    assert fig.data[0].z.shape == (6, 5)
    assert np.nanmax(fig.data[0].z[0]) == 1
    assert np.nanmax(fig.data[0].z[4]) <= 1
    assert list(fig.layout.yaxis.ticktext) == ["L1.resid_pre.F3", "L1.resid_pre.F5"]
    assert fig.data[0].text[0][2].startswith("<b>")
    with pytest.raises(ValueError, match="no contexts"):
        interp.plot.contexts(found.drop_vars("token"))


def test_the_largest_edges_are_drawn_by_sign(model: Any) -> None:
    task = interp.tasks.ioi(model, n=2)
    found = sae.circuit(model, task, [axes("L1.resid_pre"), axes("L2.resid_pre")], nodes=10, progress=False)
    fig = interp.plot.feature_graph(found, most=30)
    lines = [trace for trace in fig.data if trace.mode == "lines"]
    assert sum(each is None for trace in lines for each in trace.x) == 30
    best = sorted(found.edges, key=lambda edge: -abs(edge[2]))[:30]
    helping = sum(each is None for trace in lines for each in trace.x if trace.name == "helps")
    assert helping == sum(weight > 0 for *_, weight in best)
    marks = [trace for trace in fig.data if trace.mode == "markers"]
    assert {symbol for trace in marks for symbol in trace.marker.symbol} == {"circle", "square"}
    with pytest.raises(ValueError, match="draws the FeatureGraph"):
        interp.plot.feature_graph(3)
    with pytest.raises(ValueError, match="there is none to draw"):
        interp.plot.feature_graph(sae.FeatureGraph(found.sites, found.nodes, ()))
