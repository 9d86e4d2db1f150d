"""Circuits from scores: by rank, by threshold, from the logits back, and what is on a path."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from drawn import GRAPHS, PLAIN, drawn

import interp
from interp.circuits import Circuit, Graph, greedy, prune, score_edges, threshold, top
from interp.circuits._paths import on_paths, on_paths_by_pos

SMALL = Graph(1, 2, attn_only=True)  # input, a0.h0, a0.h1 -> q, k, v of both, logits


def scores_of(graph: Graph, seed: int = 0, prompts: int = 3, n_pos: int = 0) -> xr.Dataset:
    """Random scores."""
    rng = np.random.default_rng(seed)
    pos = (n_pos,) if n_pos else ()
    values = rng.normal(size=(prompts, *pos, *graph.allowed.shape))
    values[..., ~graph.allowed.numpy()] = np.nan
    dims = ("prompt", *(("pos",) if n_pos else ()), "writer", "reader")
    coords = {"writer": list(graph.writers), "reader": list(graph.readers)}
    return xr.Dataset({"value": (dims, values)}, coords, {"method": "eap", "ablation": "resample"})


def small_scores(**edges: float) -> xr.Dataset:
    """Scores of SMALL by edge, `input_a0h0v=1.0`; 0 for others."""
    out = scores_of(SMALL, prompts=1)
    out["value"][:] = np.where(SMALL.allowed.numpy(), 0.0, np.nan)
    for name, value in edges.items():
        writer, reader = name.split("_")
        at = {"a0h0v": "a0.h0<v>", "a0h1q": "a0.h1<q>"}.get(reader, reader)
        out["value"].loc[{"writer": {"a0h0": "a0.h0", "a0h1": "a0.h1"}.get(writer, writer), "reader": at}] = (
            value
        )
    return out


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_top_keeps_the_largest_means(graph: Graph) -> None:
    scores = scores_of(graph)
    mean = scores["value"].mean("prompt").values
    for absolute in (True, False):
        found = top(scores, 20, absolute=absolute)
        size = np.where(graph.allowed, abs(mean) if absolute else mean, -math.inf)
        assert found.graph == graph
        assert found.n_edges == 20
        assert size[found.mask].min() > size[~found.mask.numpy()].max()
        np.testing.assert_array_equal(found.scores, mean)


def test_top_of_nothing_and_of_everything() -> None:
    scores = scores_of(PLAIN)
    assert top(scores, 0).n_edges == 0
    assert torch.equal(top(scores, PLAIN.n_edges).mask, PLAIN.allowed)
    with pytest.raises(ValueError, match="there are 262 edges with a score"):
        top(scores, 263)


def test_ties_go_to_the_first_edge() -> None:
    assert top(small_scores(), 2).edges() == ["input->a0.h0<q>", "input->a0.h1<q>"]


def test_absolute_is_by_size_and_signed_is_not() -> None:
    scores = small_scores(input_a0h0v=-2.0, input_logits=1.0)
    assert top(scores, 1).edges() == ["input->a0.h0<v>"]
    assert top(scores, 1, absolute=False).edges() == ["input->logits"]
    assert threshold(scores, 1.0).edges() == ["input->a0.h0<v>", "input->logits"]
    assert threshold(scores, 1.0, absolute=False).edges() == ["input->logits"]
    assert threshold(scores, math.inf).n_edges == 0
    assert threshold(scores, -math.inf).n_edges == SMALL.n_edges


def test_greedy_goes_back_from_the_logits() -> None:
    """The best edge of all enters a0.h0, which the circuit has not; once a0.h0->logits is in, it is next."""
    scores = small_scores(input_a0h0v=9.0, a0h0_logits=2.0, a0h1_logits=3.0, input_a0h1q=1.0)
    names = ["a0.h1->logits", "a0.h0->logits", "input->a0.h0<v>", "input->a0.h1<q>"]
    for n in range(1, 5):
        assert set(greedy(scores, n).edges()) == set(names[:n])


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_greedy_edges_lead_to_the_logits(graph: Graph) -> None:
    """Every writer of a greedy circuit reaches the logits in it, which top's do not."""
    found, other = greedy(scores_of(graph), 25), top(scores_of(graph), 25)

    def dead(circuit: Circuit) -> int:
        useful = circuit.graph.owners & torch.tensor([*circuit.mask.any(1).tolist(), True])
        return int((circuit.mask & ~useful.any(1)).sum())

    assert found.n_edges == 25
    assert dead(found) == 0
    assert dead(other) > 0


def test_prune_drops_what_is_on_no_path() -> None:
    edges = ["input->a0.h0<v>", "a0.h0->logits", "input->a0.h1<q>"]
    circuit = Circuit.from_edges(SMALL, edges)
    found = prune(circuit)
    assert found.edges() == ["input->a0.h0<v>", "a0.h0->logits"]
    assert found.provenance["pruned"] == 1
    assert prune(Circuit.from_edges(SMALL, ["a0.h0->logits"])).n_edges == 0


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_paths_with_one_position_are_paths_without(graph: Graph) -> None:
    kept = []
    for seed in range(8):
        mask = drawn(graph, seed, 0.1 + 0.05 * seed).mask
        wanted = on_paths(graph, mask)
        assert torch.equal(on_paths_by_pos(graph, mask[None])[0], wanted)
        kept.append(int(wanted.sum()) / int(mask.sum()))
    assert min(kept) < 1
    assert max(kept) > 0.5


def test_information_moves_to_later_positions_only() -> None:
    """input at 0 → a value at 0 → logits at 1 is a path; from 1 to 0 there is none; queries do not move."""
    into = {part: SMALL.edge(f"input->a0.h0<{part}>") for part in "vq"}
    out = SMALL.edge("a0.h0->logits")
    for part, first, last, there in (
        ("v", 0, 1, True),
        ("v", 1, 0, False),
        ("v", 1, 1, True),
        ("q", 0, 1, False),
    ):
        mask = torch.zeros(2, *SMALL.allowed.shape, dtype=torch.bool)
        mask[(first, *into[part])] = mask[(last, *out)] = True
        assert int(prune(Circuit(SMALL, mask)).mask.sum()) == 2 * there


def test_positions_are_selected_one_by_one() -> None:
    scores = scores_of(SMALL, n_pos=3)
    found = top(scores, 5)
    assert found.mask.shape == (3, *SMALL.allowed.shape)
    assert int(found.mask.sum()) == 5
    with pytest.raises(ValueError, match="greedy takes scores without positions"):
        greedy(scores, 2)


def test_circuits_have_scores_and_say_where_they_come_from() -> None:
    found = top(scores_of(PLAIN), 20)
    told = {
        "method": "eap",
        "ablation": "resample",
        "selection": "top",
        "n": 20,
        "absolute": True,
        "n_prompts": 3,
    }
    assert {key: found.provenance[key] for key in told} == told
    again = top(found, 10)
    assert set(again.edges()) < set(found.edges())
    with pytest.raises(ValueError, match="has no scores"):
        top(Circuit(PLAIN, PLAIN.allowed), 3)


def test_a_circuit_of_scores_from_a_file_can_be_saved(tmp_path: Path) -> None:
    """netCDF hands numbers in attributes back as NumPy's."""
    model = interp.load("tiny-ioi")
    scores = score_edges(model, interp.tasks.ioi(model, n=4), progress=False)
    scores.to_netcdf(tmp_path / "scores.nc", engine="h5netcdf")
    read = xr.load_dataset(tmp_path / "scores.nc", engine="h5netcdf")
    saved = Circuit.load(top(read, 10).save(tmp_path / "circuit.json"))
    assert saved.edges() == top(scores, 10).edges()


def test_scores_of_something_else_are_refused() -> None:
    scores = scores_of(PLAIN)
    with pytest.raises(ValueError, match="scores of all edges"):
        top(scores.isel(writer=slice(0, 5)), 3)
    with pytest.raises(ValueError, match="dims writer and reader"):
        top(scores.rename(writer="head"), 3)
    with pytest.raises(ValueError, match="x is nan; give a number"):
        threshold(scores, math.nan)
