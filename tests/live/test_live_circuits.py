"""Edges on the page: the numbers of `circuits.exact` and `circuits.evaluate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import interp
from interp import circuits, stats
from interp.live._arrays import unpack
from interp.tasks import KL, LogitDiff


@pytest.fixture(scope="module")
def ask(model: Any, task: interp.Task, circuit: Any) -> Any:
    metric = [LogitDiff(), KL()]
    return interp.explore([circuit], model, task, metric=metric, progress=False).answers.ask


@pytest.fixture(scope="module")
def exact(model: Any, task: interp.Task) -> Any:
    return circuits.exact(model, task, metric=[LogitDiff(), KL()], progress=False)


def test_meta_draws_the_kept_edges_and_the_best_of_the_others(ask: Any, circuit: Any) -> None:
    drawn = ask("meta")["circuits"][0]
    kept = [edge["name"] for edge in drawn["edges"] if edge["kept"]]
    assert sorted(kept) == sorted(circuit.edges())
    others = [edge for edge in drawn["edges"] if not edge["kept"]]
    assert len(others) == 20
    sizes = [abs(edge["score"]) for edge in others]
    assert sizes == sorted(sizes, reverse=True)
    there = {node["name"] for node in drawn["nodes"]}
    assert all({edge["from"], edge["to"]} <= there for edge in drawn["edges"])
    rows = {node["name"]: node["row"] for node in drawn["nodes"]}
    assert all(rows[edge["from"]] < rows[edge["to"]] for edge in drawn["edges"])


def test_the_exact_effect_of_every_edge(ask: Any, exact: Any, circuit: Any) -> None:
    ends = stats.bootstrap(exact)
    for edge in ask("meta")["circuits"][0]["edges"]:
        writer, reader = circuit.graph.edge(edge["name"])
        for k, row in enumerate(ask("edge", {"circuit": "c0", "edge": edge["name"]})["exact"]):
            at = {"writer": writer, "reader": reader, "metric": k}
            assert row["mean"] == pytest.approx(float(ends["estimate"].isel(at)), abs=1e-4)
            assert row["low"] == pytest.approx(float(ends["low"].isel(at)), abs=1e-3)
            by_prompt = exact["value"].isel(at).values
            assert np.abs(unpack(row["value"]) - by_prompt).max() <= row["value"]["error"] + 1e-4
    assert float(abs(ends["estimate"]).max()) > 1


@pytest.mark.parametrize("toggles", [[], ["a0.h0->m0"], ["input->m2"], ["a0.h0->m0", "input->m2"]])
def test_faithfulness_with_edges_toggled(
    ask: Any, model: Any, task: interp.Task, circuit: Any, toggles: list[str]
) -> None:
    changed = circuit
    for name in toggles:
        one = circuits.Circuit.from_edges(circuit.graph, [name])
        changed = changed - one if name in changed else changed | one
    metric = [LogitDiff(), KL()]
    judged = circuits.evaluate(model, task, changed, metric=metric, measures=["faithfulness"], progress=False)
    if any(name not in {e["name"] for e in ask("meta")["circuits"][0]["edges"]} for name in toggles[:1]):
        assert "not among the edges" in ask("circuit", {"circuit": "c0", "toggles": toggles})["error"]
        return
    answer = ask("circuit", {"circuit": "c0", "toggles": toggles})
    assert answer["edges"] == changed.n_edges
    for k, row in enumerate(answer["metrics"]):
        for name in ("faithfulness", "low", "high"):
            assert row[name] == pytest.approx(float(judged[name].isel(circuit=0, metric=k)), abs=1e-4)
    assert ("singles" in answer) == (toggles == [])


def test_denoising_turns_the_sign_so_that_positive_helps(model: Any, task: interp.Task, circuit: Any) -> None:
    page = interp.explore([circuit], model, task, direction="denoise", progress=False)
    exact = circuits.exact(model, task, direction="denoise", progress=False)["value"].mean("prompt")
    name = "a0.h0->m0"
    writer, reader = circuit.graph.edge(name)
    expected = float(exact.isel(writer=writer, reader=reader))
    row = page.answers.ask("edge", {"circuit": "c0", "edge": name})["exact"][0]
    assert abs(expected) > 0.1
    assert row["mean"] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_asked_gets_a_sentence(ask: Any, circuit: Any, model: Any, task: interp.Task) -> None:
    for kind, args, words in (
        ("edge", {"circuit": "c1", "edge": "a0.h0->m0"}, "circuit is 'c1'; this page has c0"),
        ("edge", {"circuit": "c0", "edge": "m0->a0.h0"}, "edge is 'm0->a0.h0'"),
        ("circuit", {"circuit": "c0", "toggles": "a0.h0->m0"}, "give a list of edges"),
        ("circuit", {"circuit": "c0", "toggles": ["m0->a0.h0"]}, "m0->a0.h0"),
    ):
        assert words in ask(kind, args)["error"]
    alone = interp.explore([circuit]).answers.ask
    assert alone("meta")["circuits"][0]["why"] == "effects of edges need the model and the task"
    other = circuits.Circuit.from_edges(circuits.Graph(2, 2), ["input->m0"], name="other")
    with pytest.raises(ValueError, match="'other' is a circuit of another model"):
        interp.explore([other], model, task)
