"""Node scores: sums of edge scores, slopes in the stream, and exact effects of cutting every edge."""

from __future__ import annotations

import architectures
import masks as M
import numpy as np
import pytest
import small
from test_score_edges import FEW, model_of

import interp
from interp import circuits
from interp.circuits import score_edges, score_nodes
from interp.tasks import Task


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("method", ["eap", "relp", "secant"])
def test_a_node_is_the_sum_of_its_edges_and_its_attribution(name: str, method: str) -> None:
    """Estimates of z patching (`interp.attribute`), summed over positions, know nothing of edges."""
    model, task = model_of(name), M.task()
    nodes = score_nodes(model, task, method=method)["value"]
    edges = score_edges(model, task, method=method)["value"]
    np.testing.assert_allclose(nodes, edges.sum("reader"), atol=1e-12)
    known_as = {"eap": "atp"}.get(method, method)
    heads = interp.attribute(model, task, "z", method=known_as, direction="noise", progress=False)["value"]
    for layer in range(model.cfg.n_layers):
        found = nodes.sel(writer=[f"a{layer}.h{head}" for head in range(4)])
        np.testing.assert_allclose(found, heads.sel(layer=layer), atol=1e-9)
    assert float(abs(nodes).max()) > 1e-2


@pytest.mark.parametrize("family", small.FAMILIES)
@pytest.mark.parametrize("method", ["relp", "secant"])
def test_on_bridges_too(family: str, method: str) -> None:
    """The edges out of a head add up to its attribution. A bridge's norms compute in float32."""
    model, task = small.bridge(family), M.task()
    nodes = score_nodes(model, task, method=method)["value"]
    heads = interp.attribute(model, task, "z", method=method, direction="noise", progress=False)["value"]
    for layer in range(3):
        found = nodes.sel(writer=[f"a{layer}.h{head}" for head in range(4)])
        np.testing.assert_allclose(found, heads.sel(layer=layer), atol=2e-5)
    assert float(abs(nodes).max()) > 1e-2


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_exact_nodes_are_patched_heads(direction: str) -> None:
    model, task = model_of(FEW[0]), M.uneven()
    found = score_nodes(model, task, method="exact", direction=direction)
    heads = interp.patch(model, task, "z", direction=direction, progress=False)
    for layer in range(3):
        mine = found["value"].sel(writer=[f"a{layer}.h{head}" for head in range(4)])
        np.testing.assert_allclose(mine, heads["value"].sel(layer=layer), atol=1e-9)
    np.testing.assert_allclose(found["corrupt"], heads["corrupt"], atol=1e-9)
    assert float(abs(found["value"]).max()) > 1e-2
    assert "node" in found.attrs["convention"]
    assert "edge" not in found.attrs["convention"].replace("all edges out of the node", "")


def test_cutting_the_input_everywhere_is_the_corrupt_run() -> None:
    model, task = model_of(FEW[1]), M.task()
    found = score_nodes(model, task, method="exact")
    whole = (found["clean"] - found["corrupt"]).values
    np.testing.assert_allclose(found["value"].sel(writer="input"), whole, atol=1e-9)
    assert abs(whole).max() > 1e-2


def test_nodes_by_position() -> None:
    clean, corrupt = architectures.tokens(first=1)
    task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])
    model = model_of(FEW[0])
    found = score_nodes(model, task, positions=True)["value"]
    assert found.dims == ("prompt", "pos", "writer")
    np.testing.assert_allclose(found.sum("pos"), score_nodes(model, task)["value"], atol=1e-10)
    assert circuits.score_nodes is score_nodes
