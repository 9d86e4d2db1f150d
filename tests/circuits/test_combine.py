"""Ensembles of scores, and what is left of scores when the prompts are drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from drawn import PLAIN
from test_select import SMALL, scores_of, small_scores

import interp
from interp.circuits import Circuit, ensemble, greedy, stability, stable, top, train_mask


def told(scores: xr.Dataset, **more: str) -> xr.Dataset:
    return scores.assign_attrs(model="m", task="t", task_fingerprint="f", **more)


def test_ranks_and_sizes_of_one_method() -> None:
    scores = small_scores(input_logits=-4.0, a0h0_logits=2.0)
    rank, size = (ensemble([scores], scale=scale)["value"] for scale in ("rank", "size"))
    n = SMALL.n_edges
    at = {"writer": "input", "reader": "logits"}, {"writer": "a0.h0", "reader": "logits"}
    assert [float(rank.loc[each]) for each in at] == [-1.0, (n - 1) / n]
    assert [float(size.loc[each]) for each in at] == pytest.approx(
        [-4 / (20 / n) ** 0.5, 2 / (20 / n) ** 0.5]
    )
    rest = rank.values[SMALL.allowed.numpy()]
    assert (rest == 0).sum() == n - 2
    assert np.isnan(rank.values[~SMALL.allowed.numpy()]).all()


def test_mean_min_and_max_are_those_of_a_slow_loop() -> None:
    members = [scores_of(PLAIN, seed) for seed in range(3)]
    for member in members:
        member["value"][:, :3] = abs(member["value"][:, :3])  # signs that agree, and signs that do not
    means = [member["value"].mean("prompt").values for member in members]
    edges = [tuple(edge) for edge in PLAIN.allowed.nonzero().tolist()]
    ranks = []
    for mean in means:
        order = sorted(edges, key=lambda edge: abs(mean[edge]))
        ranks.append({e: np.sign(mean[e]) * (order.index(e) + 1) / len(edges) for e in edges})
    found = {how: ensemble(members, how=how)["value"].values for how in ("mean", "min", "max")}
    agreed = 0
    for edge in edges:
        row = [rank[edge] for rank in ranks]
        same = len({np.sign(each) for each in row}) == 1
        agreed += same
        assert found["mean"][edge] == pytest.approx(sum(row) / 3)
        assert found["max"][edge] == pytest.approx(max(row, key=abs))
        assert found["min"][edge] == pytest.approx(min(row, key=abs) if same else 0.0)
    assert 0 < agreed < len(edges)


def test_an_ensemble_is_selected_from_and_says_what_it_is_of() -> None:
    members = [told(scores_of(PLAIN, seed), method=name) for seed, name in enumerate(("eap", "exact"))]
    both = ensemble(members)
    assert both.attrs["members"] == "eap, exact"
    assert both.attrs["model"] == "m"
    assert both.attrs["ablation"] == "resample"
    assert top(both, 9).n_edges == greedy(both, 9).n_edges == 9
    assert top(both, 9).provenance["method"] == "ensemble"
    interp.results.check(both)


def test_a_learned_mask_counts_by_how_open_it_is() -> None:
    theta = torch.linspace(-3, 3, PLAIN.n_edges, dtype=torch.float64)
    scores = torch.full(PLAIN.allowed.shape, float("nan"), dtype=torch.float64)
    scores[PLAIN.allowed] = theta
    trained = Circuit(PLAIN, PLAIN.allowed, scores, {"method": "train_mask"})
    value = ensemble([trained])["value"].values[PLAIN.allowed.numpy()]
    assert (np.diff(value) > 0).all()
    assert top(trained, 5).mask[PLAIN.allowed].nonzero().flatten().tolist() == [*range(257, 262)]


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ([], {}, "no scores are given"),
        ([scores_of(PLAIN), scores_of(SMALL)], {}, "the scores are of different graphs"),
        ([scores_of(PLAIN), scores_of(PLAIN, n_pos=2)], {}, "some are by position"),
        (
            [told(scores_of(PLAIN)), told(scores_of(PLAIN)).assign_attrs(model="n")],
            {},
            "two models .m and n.",
        ),
        ([scores_of(PLAIN)], {"how": "median"}, "how is 'median'; it must be one of mean, min, max"),
        ([scores_of(PLAIN)], {"scale": "ranks"}, "did you mean 'rank'"),
    ],
)
def test_scores_that_cannot_be_combined_are_sentences(members: list, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ensemble(members, **options)


def test_stability_is_a_slow_loop_over_draws() -> None:
    scores = scores_of(SMALL, prompts=5)
    found = stability(scores, 4, draws=200, seed=3)
    values = scores["value"].values.reshape(5, -1)
    values = values[:, SMALL.allowed.numpy().ravel()]
    counts = np.random.default_rng(3).multinomial(5, np.full(5, 0.2), size=200)
    inside, same = np.zeros(SMALL.n_edges), np.zeros(SMALL.n_edges)
    for count in counts:
        mean = np.repeat(values, count, 0).mean(0)
        inside[np.argsort(-abs(mean))[:4]] += 1
        same += np.sign(mean) == np.sign(values.mean(0))
    edges = SMALL.allowed.numpy()
    np.testing.assert_allclose(found["in_top"].values[edges], inside / 200)
    np.testing.assert_allclose(found["same_sign"].values[edges], same / 200)
    assert 0 < (inside / 200).min() < (inside / 200).max() < 1
    np.testing.assert_allclose(found["value"].values[edges], values.mean(0))
    assert np.isnan(found["in_top"].values[~edges]).all()


def test_the_interval_is_that_of_stats() -> None:
    """Mirrored prompts are one draw, here as there."""
    model = interp.load("tiny-ioi")
    scores = interp.circuits.score_edges(model, interp.tasks.ioi(model, n=8), progress=False)
    found, wanted = stability(scores, 20, draws=300), interp.stats.bootstrap(scores, n=300)
    np.testing.assert_allclose(found["low"], wanted["low"])
    np.testing.assert_allclose(found["high"], wanted["high"])
    assert found.attrs["n_resampled"] == 4
    assert float((found["high"] - found["low"]).max()) > 0.1


def test_edges_that_all_prompts_agree_on_survive_and_others_do_not() -> None:
    """Two edges are large on every prompt, ten on one prompt each."""
    scores = scores_of(PLAIN, prompts=10)
    value = np.zeros((10, PLAIN.n_edges))
    value[:, :2] = 1.0
    value[np.arange(10), np.arange(2, 12)] = 8.0
    scores["value"].values[:, PLAIN.allowed.numpy()] = value
    found = stable(scores, 8, share=0.99, draws=400)
    assert found.mask[PLAIN.allowed].nonzero().flatten().tolist() == [0, 1]
    assert found.provenance["share"] == 0.99
    assert top(scores, 12).n_edges == 12
    assert stable(scores, 8, share=0.3, draws=400).n_edges > 5


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        (scores_of(PLAIN).mean("prompt"), {}, "these scores have none"),
        (scores_of(PLAIN, prompts=1), {}, "1 prompt.s. are 1 independent unit"),
        (scores_of(PLAIN), {"draws": 10}, "draws is 10"),
        (scores_of(PLAIN), {"share": 1.5}, "share is 1.5"),
        (scores_of(PLAIN).expand_dims(metric=["a", "b"]), {}, "the metrics a, b"),
    ],
)
def test_what_cannot_be_drawn_again_is_a_sentence(scores: xr.Dataset, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        stable(scores, 5, **options)


def test_a_mask_that_starts_from_scores_starts_in_their_order() -> None:
    """With next to no training the circuit is that of the scores; the start is part of the run's identity."""
    model = interp.load("and-gate")
    task = interp.tasks.handmade.some_inputs(model, "and-gate", 8)
    scores = interp.circuits.score_edges(model, task, method="exact")
    options = {"sparsity": 0.5, "steps": 1, "learning_rate": 1e-6, "progress": False}
    begun = train_mask(model, task, start=scores, **options)
    assert torch.equal(begun.mask, top(scores, begun.n_edges).mask)
    assert begun.provenance["start"] == "exact"
    with pytest.raises(ValueError, match="start= has scores of edges, and the gates are of nodes"):
        train_mask(model, task, start=scores, granularity="nodes", progress=False)
