"""The exact effect of every edge, against cutting it by hooks."""

from __future__ import annotations

from typing import Any

import architectures
import masks as M
import naive
import numpy as np
import pytest
import small
import torch
from model_folders import needs_hooked

import interp
from interp import circuits
from interp.circuits import Graph
from interp.models.handmade import truth
from interp.tasks import KL, Custom, LogitDiff, Loss
from interp.tasks.handmade import some_inputs

SOME = [
    ("LN-gelu_new-plain-serial-mha-learned", "resample"),
    ("RMS-silu-gated-parallel-gqa-rotary", "zero"),
    ("RMSPre-relu-plain-serial-gqa-rotary", "mean"),
    ("attn-only", "resample"),
    ("alibi", "zero"),
]
FURTHEST = Custom(
    lambda reading: (reading.logits - reading.clean).abs().amax(-1), name="furthest", better="lower"
)


@needs_hooked
@pytest.mark.parametrize(("name", "ablation"), SOME)
def test_every_edge_is_cut_as_by_hooks(name: str, ablation: str) -> None:
    model, task = architectures.build(dict(architectures.grid())[name]), M.task()
    graph = Graph.of(model)
    found = circuits.exact(model, task, ablation=ablation)["value"]
    assert found.dims == ("prompt", "writer", "reader")
    edges = [graph.edge(edge) for edge in naive.edges(model)]
    assert np.array_equal(found.notnull().values, np.broadcast_to(graph.allowed.numpy(), found.shape))
    some = edges[::8]
    masks = graph.allowed.repeat(len(some), 1, 1)
    for mask, edge in zip(masks, some):
        mask[edge] = False
    expected = M.plain(model, task, task.clean) - M.by_hooks(model, task, masks, ablation)
    values = torch.from_numpy(found.values)[:, [w for w, _ in some], [r for _, r in some]].T
    torch.testing.assert_close(values, expected, atol=1e-10, rtol=0)
    assert expected.abs().max(1).values.median() > 1e-4


@pytest.mark.parametrize("metric", [LogitDiff(), KL(), Loss()])
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_it_is_run_with_one_edge_cut(metric: Any, direction: str) -> None:
    """Positive helps the metric, whichever way it is better; prompts of different lengths."""
    model, task = small.model(), M.uneven()
    graph = Graph.of(model)
    result = circuits.exact(model, task, metric=metric, direction=direction)
    edges = graph.allowed.nonzero().tolist()[::7]
    masks = graph.allowed.repeat(len(edges) + 1, 1, 1)
    for mask, edge in zip(masks, edges):
        mask[tuple(edge)] = False
    *cut, whole = M.raw(model, task, masks, metric=metric, direction=direction)
    base = result["clean" if direction == "noise" else "corrupt"].values
    np.testing.assert_allclose(whole, base, atol=1e-10)
    sign = (1 if metric.better == "higher" else -1) * (-1 if direction == "noise" else 1)
    for (writer, reader), value in zip(edges, cut):
        effect = result["value"].values[:, writer, reader]
        np.testing.assert_allclose(effect, sign * (value.numpy() - base), atol=1e-10)
    assert np.nanmax(abs(result["value"].values)) > 1e-2


def test_memory_does_not_matter() -> None:
    model, task = small.model(), M.task()
    whole, tight = circuits.exact(model, task), circuits.exact(model, task, memory=2**20)
    np.testing.assert_allclose(tight["value"], whole["value"], atol=1e-10)
    assert float(abs(whole["value"]).max()) > 1e-2


def test_what_it_says_of_itself() -> None:
    model, task = small.model(), M.task()
    result = circuits.exact(model, task, metric=KL())
    graph = Graph.of(model)
    assert result["writer"].values.tolist() == list(graph.writers)
    assert result["reader"].values.tolist() == list(graph.readers)
    told = {key: result.attrs[key] for key in ("method", "site", "direction", "ablation", "metric", "better")}
    assert told == {
        "method": "exact",
        "site": "edges",
        "direction": "noise",
        "ablation": "resample",
        "metric": "kl",
        "better": "lower",
    }
    assert result.attrs["task_fingerprint"] == task.fingerprint()
    assert "positive: the edge helps" in result.attrs["convention"]


@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
@pytest.mark.parametrize("name", ["reverse", "xproportion", "induction", "and-gate", "linear"])
def test_the_edges_of_a_hand_built_model_and_no_others(name: str, ablation: str) -> None:
    """Those whose cut moves any logit."""
    model = interp.load(name, dtype="float64")
    task = some_inputs(model, name, n=32)
    graph = Graph.of(model)
    value = circuits.exact(model, task, ablation=ablation, metric=FURTHEST)["value"].max("prompt").values
    found = {graph.name(*edge) for edge in np.argwhere(value > 1e-9).tolist()}
    assert found == set(truth(name, ablation))
    assert value[value > 1e-9].min() > 0.1
