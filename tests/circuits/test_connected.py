"""The best circuit without loose ends: against every circuit of a small graph, and what is said of a gap."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from drawn import PLAIN
from test_select import scores_of, small_scores

from interp.circuits import Graph, connected, greedy, prune, top
from interp.circuits import _connected as module
from interp.circuits._paths import on_paths

TINY = [Graph(1, 2, attn_only=True), Graph(1, 2, 1), Graph(2, 1, attn_only=True)]


def every(graph: Graph, n: int) -> list[torch.Tensor]:
    """All connected circuits of n edges, by trying all sets."""
    edges = graph.allowed.nonzero().tolist()
    out = []
    for some in combinations(edges, n):
        mask = torch.zeros_like(graph.allowed)
        for writer, reader in some:
            mask[writer, reader] = True
        if torch.equal(on_paths(graph, mask), mask):
            out.append(mask)
    return out


@pytest.mark.parametrize("graph", TINY, ids=str)
@pytest.mark.parametrize("absolute", [True, False])
def test_it_is_the_best_of_all_circuits(graph: Graph, absolute: bool) -> None:
    for n in (2, 4):
        circuits = every(graph, n)
        for seed in range(3):
            scores = scores_of(graph, seed)
            mean = torch.from_numpy(scores["value"].mean("prompt").values)
            size = mean.abs() if absolute else mean
            best = max(float(size[mask].sum()) for mask in circuits)
            found = connected(scores, n, absolute=absolute)
            assert found.n_edges == prune(found).n_edges == n
            assert float(size[found.mask].sum()) == pytest.approx(best)
            assert found.provenance["total"] == pytest.approx(best)
            assert found.provenance["gap"] == 0.0


@pytest.mark.parametrize("n", [1, 15, 40])
def test_no_edge_is_loose_and_nothing_the_others_find_is_better(n: int) -> None:
    scores = scores_of(PLAIN, 5)
    found = connected(scores, n)
    assert found.n_edges == prune(found).n_edges == n
    size = found.scores.abs()
    total = float(size[found.mask].sum())
    assert total <= float(size[top(scores, n).mask].sum()) + 1e-9
    for other in (prune(top(scores, n)), prune(greedy(scores, n))):
        assert other.n_edges <= n
        assert float(size[other.mask].sum()) <= total + 1e-9


def test_the_top_edges_are_the_answer_where_they_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = small_scores(input_a0h0v=3.0, a0h0_logits=2.0)
    monkeypatch.setattr(module, "milp", None)  # no solver is asked
    assert connected(scores, 2).edges() == ["input->a0.h0<v>", "a0.h0->logits"]


def test_a_gap_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the solver stops early, its bound is in the provenance, and a warning says so."""
    scores, solve = scores_of(PLAIN, 5), module.milp
    best = connected(scores, 6)

    def stopped(*args: Any, **kwargs: Any) -> Any:
        solved = solve(*args, **kwargs)
        solved.mip_dual_bound *= 1.25
        return solved

    monkeypatch.setattr(module, "milp", stopped)
    with pytest.warns(UserWarning, match="the solver stopped after 60 s: the total score is"):
        found = connected(scores, 6)
    limit = float(np.sort(abs(best.scores[best.graph.allowed]).numpy())[-6:].sum())
    assert found.provenance["bound"] == pytest.approx(min(1.25 * best.provenance["total"], limit))
    assert found.provenance["gap"] == pytest.approx(found.provenance["bound"] - best.provenance["total"])
    assert found.provenance["gap"] > 0


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (0, {}, "n is 0"),
        (300, {}, "there are 262 edges with a score"),
        (20, {"seconds": 0}, "seconds is 0"),
    ],
)
def test_what_cannot_be_is_a_sentence(n: int, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        connected(scores_of(PLAIN), n, **options)


def test_scores_by_position_and_impossible_numbers_are_sentences() -> None:
    with pytest.raises(ValueError, match="connected takes scores without positions"):
        connected(scores_of(PLAIN, n_pos=2), 4)
    scores = small_scores()
    scores["value"].loc[{"writer": "input", "reader": "logits"}] = np.nan  # the only circuit of one edge
    with pytest.raises(ValueError, match="no connected circuit of this graph has exactly 1 edges"):
        connected(scores, 1)
