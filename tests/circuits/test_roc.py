"""ROC curves of edge scores: areas by brute force, and hand-built circuits found exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import xarray as xr

import interp
from interp import circuits
from interp.circuits import Circuit, Graph
from interp.circuits._judge.overlap import SIZES, pessimistic, points, roc

GRAPH = Graph(2, 2)


def dataset(values: np.ndarray, graph: Graph = GRAPH) -> xr.Dataset:
    """Scores [writer, reader] of one prompt."""
    values = np.where(graph.allowed.numpy(), values, np.nan)
    coords = {"writer": list(graph.writers), "reader": list(graph.readers)}
    return xr.Dataset({"value": (("prompt", "writer", "reader"), values[None])}, coords)


def truth(seed: int, share: float = 0.2) -> Circuit:
    draw = torch.rand(GRAPH.allowed.shape, generator=torch.Generator().manual_seed(seed)) < share
    return Circuit(GRAPH, GRAPH.allowed & draw, name="truth")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by", ["absolute", "signed"])
def test_the_rank_area_is_the_share_of_ordered_pairs(seed: int, by: str) -> None:
    """Scores with ties, which count one half."""
    values = np.random.default_rng(seed).integers(-3, 4, GRAPH.allowed.shape).astype(float)
    known = truth(seed)
    found = roc(dataset(values), known, by=by)
    allowed = GRAPH.allowed.numpy()
    score = (np.abs(values) if by == "absolute" else values)[allowed]
    hit = known.mask.numpy()[allowed]
    wins = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(score[hit], score[~hit])]
    assert float(found["auroc"].sel(area="rank")) == pytest.approx(np.mean(wins), abs=1e-12)
    assert float(found["auroc"].sel(area="pessimistic")) < float(found["auroc"].sel(area="rank"))


def test_points_by_hand() -> None:
    """Scores 3 3 2 1, of the circuit or not."""
    threshold, false, true = points(np.array([3.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    np.testing.assert_array_equal(threshold, [np.inf, 3, 2, 1])
    np.testing.assert_array_equal(false, [0, 0.5, 0.5, 1])
    np.testing.assert_array_equal(true, [0, 0.5, 1, 1])
    assert pessimistic(false, true) == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)


@pytest.mark.parametrize(("middle", "area"), [((0.5, 0.5), 0.25), ((0.25, 0.25), 0.1875), ((0.0, 1.0), 1.0)])
def test_the_pessimistic_staircase(middle: tuple[float, float], area: float) -> None:
    """The values that ACDC's code asserts of its own."""
    false, true = np.array([0, middle[0], 1.0]), np.array([0, middle[1], 1.0])
    assert pessimistic(false, true) == pytest.approx(area)


def test_a_perfect_and_an_inverted_ranking() -> None:
    known = truth(1)
    perfect = roc(dataset(known.mask.double().numpy()), known)
    assert perfect["auroc"].sel(area=["rank", "pessimistic"]).values.tolist() == [1.0, 1.0]
    assert float(perfect["auroc"].sel(area="trapezoid")) > 0.8  # only as fine as its sizes
    inverted = roc(dataset(1.0 - known.mask.double().numpy()), known)
    assert inverted["auroc"].sel(area=["rank", "pessimistic"]).values.tolist() == [0.0, 0.0]
    assert len(SIZES) == 10


@pytest.mark.parametrize("name", ["reverse", "xproportion", "linear"])
def test_exact_scores_find_hand_built_circuits(name: str) -> None:
    """Every edge of the stated circuit above every other."""
    model = interp.load(name, dtype=torch.float64)
    task = getattr(interp.tasks, name)(model, n=24)
    known = circuits.known(name, ablation="resample")
    found = roc(circuits.score_edges(model, task, method="exact"), known)
    assert float(found["auroc"].sel(area="rank")) == 1.0
    assert float(found["auroc"].sel(area="pessimistic")) == 1.0


def test_bad_input() -> None:
    known = truth(0)
    with pytest.raises(ValueError, match=r"holds 0 of \d+ edges"):
        roc(dataset(np.ones(GRAPH.allowed.shape)), known - known)
    with pytest.raises(ValueError, match=r"same model|not those of"):
        roc(dataset(np.ones(Graph(3, 2).allowed.shape), Graph(3, 2)), known)
    with pytest.raises(ValueError, match="has no scores"):
        roc(known, known)
    with pytest.raises(ValueError, match="by is 'size'"):
        roc(dataset(np.ones(GRAPH.allowed.shape)), known, by="size")
