"""The table of probes: planted truth, shuffled labels with the selection in them, and the control task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import two_sides

import interp
from interp.probes._table import _areas, _errors, _scores, _standard


def planted(sparse: bool, n: int = 400, d: int = 40, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Rows and labels: three coordinates, or all of them a little, tell the classes apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(n) % 2).double()
    rows = torch.randn(n, d, dtype=torch.float64, generator=generator)
    gap = torch.zeros(d, dtype=torch.float64)
    gap[torch.tensor([5, 17, 30])] = 1.0
    gap = gap if sparse else torch.full((d,), 0.4, dtype=torch.float64)
    return rows + (labels[:, None] - 0.5) * gap, labels


@pytest.mark.parametrize("sparse", [True, False])
def test_planted_truth_is_found_by_the_probe_that_fits_it(sparse: bool) -> None:
    rows, labels = planted(sparse)
    seen, fresh = _standard(rows[:300], rows[300:])
    scores = _scores(seen, fresh, labels[:300], [3], 1e-2, 0)
    mean, dense, best, three, random = _areas(scores, labels[300:])
    assert min(mean, dense) > 0.8
    if sparse:
        assert three > max(best + 0.05, random + 0.1, 0.8)
    else:
        assert mean > three + 0.1


def test_shuffled_labels_are_at_chance_with_the_ranking_in_the_shuffle() -> None:
    areas, leaked = [], []
    for seed in range(40):
        rows, labels = planted(True, n=60, d=200, seed=seed)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        seen, fresh = _standard(rows[:40], rows[40:])
        drawn = labels[order]
        areas.append(_areas(_scores(seen, fresh, drawn[:40], [3], 1e-2, seed), drawn[40:]))
        both = torch.cat((seen, fresh))
        gap = both[drawn > 0.5].mean(0) - both[drawn < 0.5].mean(0)  # ranked on all rows: a leak
        leaked.append(_areas((fresh @ gap)[None], drawn[40:])[0])
    mean, error = np.mean(areas, 0), np.std(areas, 0) / 40**0.5
    assert (abs(mean - 0.5) < 3 * error).all()
    assert np.mean(leaked) > 0.7


def test_the_error_of_single_rows_is_delongs() -> None:
    """Of a hand case by its formula: the variance of the placements of both classes."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(60) % 2).double()
    scores = (torch.randn(60, generator=generator, dtype=torch.float64) + labels)[None]
    up, down = scores[0][labels > 0.5], scores[0][labels < 0.5]
    wins = (up[:, None] > down).double()
    delong = (wins.mean(1).var() / len(up) + wins.mean(0).var() / len(down)).sqrt()
    np.testing.assert_allclose(_errors(scores, labels, torch.arange(60))[0], float(delong), rtol=0.05)


def test_on_a_model_beside_its_controls() -> None:
    world = interp.load("tiny-world")
    asked = interp.tasks.requests(world, n=100, seed=0)
    refused = asked.answers[:, 0] == world.to_single_token("sorry")
    up, down = asked.clean[refused], asked.clean[~refused]
    found = interp.probes.table(world, up, down, layer=[0, 3], ks=[4], draws=3, progress=False)
    late, early = (found["value"].sel(layer=layer) for layer in (3, 0))
    assert float(late.sel(probe="logistic")) > 0.95
    assert float(late.sel(probe="k=4")) > 0.85
    assert float(abs(early.sel(probe="logistic") - 0.5)) < 0.2  # the last token is the same in all
    assert float(found["shuffled"].sel(layer=3).mean()) < 0.7
    assert bool(found["control_task"].isnull().all())  # one token is read everywhere


def test_a_word_learnt_by_heart_is_seen_in_the_control_task() -> None:
    world = interp.load("tiny-world")
    nouns = ("film", "song", "cast", "story", "music", "book")
    ends = ("great", "bad", "wonderful", "terrible", "lovely", "dull", "superb", "boring")
    up, down = ([f"The {noun} was {word}" for noun in nouns for word in ends[k::2]] for k in (0, 1))
    found = interp.probes.table(world, up, down, layer=0, ks=[4], draws=2, progress=False)
    assert (
        float(found["control_task"].sel(probe="logistic", layer=0)) > 0.95
    )  # any label of a word is in its embedding
    assert abs(float(found["selectivity"].sel(probe="logistic", layer=0))) < 0.1


def test_mistakes_are_said_before_a_pass() -> None:
    world = interp.load("tiny-ioi")
    ids = torch.arange(1, 41).view(8, 5)
    for options, said in (
        ({"ks": [0]}, r"ks is \[0\]"),
        ({"site": "z"}, "not single heads"),
        ({"l2": -1.0}, "l2 is"),
        ({"ks": [2, 2]}, "each once"),
        ({"pos": "all"}, "a row a token, and each prompt is a row"),
    ):
        with two_sides.no_pass(world), pytest.raises(ValueError, match=said):
            interp.probes.table(world, ids[:4], ids[4:], **options)
