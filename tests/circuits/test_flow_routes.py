"""Shares of a reader's input: against the definition in numpy, and what shares are."""

from __future__ import annotations

from typing import Any

import masks as M
import naive
import numpy as np
import pytest
import torch
from test_score_edges import FEW, model_of

from interp.circuits import Graph, score_edges
from interp.circuits._score.flow_routes import importance
from interp.tasks import Task


def stream(model: Any, now: dict[str, torch.Tensor], before: list[str], layers: int) -> np.ndarray:
    """The sum of what some writers wrote, and the biases of attention in the layers before."""
    total = sum(now[writer] for writer in before)
    biases = sum((model.blocks[layer].attn.b_O for layer in range(layers)), torch.zeros(()))
    return (total + biases).detach().numpy()


@pytest.mark.parametrize("name", FEW)
def test_shares_are_those_of_the_definition(name: str) -> None:
    """A value of the last layer, and the logits, of every writer, prompt and position."""
    model, task = model_of(name), M.task()
    graph = Graph.of(model)
    _, now = naive.forward(model, task.clean)
    found = score_edges(model, task, method="flow-routes")["value"]
    heads, last = [f"a2.h{head}" for head in range(4)], model.cfg.n_layers - 1
    earlier = [writer for writer in graph.writers if writer not in heads and writer != "m2"]
    for reader, before, layers in (
        (f"a{last}.h0<v>", earlier, last),
        ("logits", list(graph.writers), last + 1),
    ):
        x = stream(model, now, before, layers)  # [prompt, pos, d_model]
        near = [abs(x).sum(-1) - abs(x - now[writer].detach().numpy()).sum(-1) for writer in before]
        near = np.maximum(np.stack(near, -1), 0)
        share = near / near.sum(-1, keepdims=True)  # [prompt, pos, writer]
        for prompt, end in enumerate(task.positions.tolist()):
            rows = share[prompt, end] if reader == "logits" else share[prompt, : end + 1].mean(0)
            values = found.sel(reader=reader, writer=before)[prompt]
            np.testing.assert_allclose(values, rows, atol=1e-10)
        assert (share > 0.05).mean() > 0.1


def test_they_are_between_0_and_1_and_add_up_to_1() -> None:
    found = score_edges(model_of(FEW[1]), M.uneven(), method="flow-routes")["value"]
    np.testing.assert_allclose(found.sum("writer"), 1, atol=1e-10)
    assert float(found.min()) >= 0
    assert float(found.max()) > 0.2


def test_no_corrupt_prompts_are_needed() -> None:
    model, task = model_of(FEW[0]), M.task()
    alone = Task.from_tokens(
        clean=task.clean, corrupt=None, answer=[3, 4], wrong=[5, 6], positions=task.positions
    )
    found, wanted = (score_edges(model, one, method="flow-routes") for one in (alone, task))
    np.testing.assert_allclose(found["value"], wanted["value"], atol=1e-12)
    assert found["corrupt"].isnull().all()
    assert found.attrs["unit"] == "share"


def test_a_writer_that_takes_the_stream_further_away_has_no_share() -> None:
    writes = torch.tensor([[1.0, 1.0], [-3.0, 0.0], [3.0, 2.0]])[:, None, None]  # sum [1, 3]
    found = importance(writes, writes.sum(0))[0, 0]
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0, 1.0]) / 3)
