"""Cascades, groups of members, pairs, reliability: planted truth, controls, and what must change nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import two_sides

import interp
from interp import probes
from interp.places import Place
from interp.probes._collective import WAYS, _judged, features_of
from interp.probes._pairs import fitted, scored
from interp.probes._table import _areas
from interp.probes.aggregate import Weights


@pytest.fixture(scope="module")
def world() -> Any:
    return interp.load("tiny-world")


@pytest.fixture(scope="module")
def sides(world: Any) -> tuple[list[str], list[str]]:
    """Requests that are refused, and such that are not."""
    asked = interp.tasks.requests(world, n=160, seed=0)
    texts = [world.to_string(row[1:n]) for row, n in zip(asked.clean, asked.lengths.tolist())]
    refused = (asked.answers[:, 0] == world.to_single_token("sorry")).tolist()
    return [t for t, r in zip(texts, refused) if r], [t for t, r in zip(texts, refused) if not r]


ASK = probes.Question("sorry", "sure")


def by_layer(world: Any, layer: int, seed: int = 0, pos: str = "last") -> probes.Probes:
    """A probe that knows nothing: its weights are drawn."""
    v = torch.randn(
        1, world.cfg.d_model, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    weights = Weights(v, torch.zeros_like(v), torch.zeros(1, dtype=torch.float64))
    return probes.Probes({Place("resid_pre", layer): weights}, "mean", pos, "tiny-world")


def test_the_verdict_is_a_difference_of_logits(world: Any, sides: Any) -> None:
    up, down = sides
    texts = [*up[:2], *down[:2]]
    with torch.no_grad():
        for text, margin in zip(texts, ASK(world, texts)):
            logits = world(text)[0, -1]
            expected = logits[world.to_single_token("sorry")] - logits[world.to_single_token("sure")]
            assert float(margin) == pytest.approx(float(expected), abs=1e-4)
    more = probes.Question("sorry", "sure", text=" Assistant:")
    asked = more.asked(world, [texts[0], "Review: The film"])
    assert asked.lengths.tolist() == [
        len(world.to_tokens(f"{t} Assistant:")[0]) for t in (texts[0], "Review: The film")
    ]


def test_a_cascade_is_the_probe_where_it_is_sure_and_else_the_verdict(world: Any, sides: Any) -> None:
    up, down = sides
    probe = by_layer(world, 2)  # in between: a line of no meaning still tells some apart
    parts = {"calibrate": (up[25:50], down[25:50]), "rate": 0.1}
    found = probes.cascade(world, up[50:], down[50:], probe, ASK, **parts)
    low, high = found.attrs["threshold_low"], found.attrs["threshold_high"]
    margins = np.concatenate([ASK(world, side) for side in (up[50:], down[50:])])
    label = np.array([1] * len(up[50:]) + [0] * len(down[50:])).astype(bool)
    right = []
    for score, margin, truth in zip(found["score"].values, margins, label):
        said = margin > 0 if low <= score <= high else score > high
        right.append(said == truth)
    share = float(((found["score"] >= low) & (found["score"] <= high)).mean())
    assert float(found["value"].sel(way="cascade")) == pytest.approx(np.mean(right))
    assert float(found["value"].sel(way="verdict")) == pytest.approx(((margins > 0) == label).mean())
    assert 0 < share < 1
    np.testing.assert_allclose(found["asked"].values, [0, share, share, 1])
    np.testing.assert_allclose(found["cost"].values, [0.5, 0.5 + share, 0.5 + share, 1])
    cheap = probes.cascade(world, up[50:], down[50:], probe, ASK, everything=False, **parts)
    np.testing.assert_array_equal(cheap["decision"], found["decision"])
    assert int(cheap["verdict"].notnull().sum()) == int(found["unsure"].sum())
    assert bool(np.isnan(cheap["value"].sel(way="verdict")))


def test_a_probe_that_knows_nothing_asks_about_everything(world: Any, sides: Any) -> None:
    """At layer 0 the last token is the same in all: the cascade is the model's own verdict, at more cost."""
    up, down = sides
    found = probes.cascade(world, up[40:], down[40:], by_layer(world, 0), ASK, calibrate=(up[:40], down[:40]))
    assert bool(found["unsure"].all())
    assert float(found["value"].sel(way="cascade")) == float(found["value"].sel(way="verdict")) > 0.9
    assert float(found["value"].sel(way="probe")) == pytest.approx(0.5, abs=0.1)


def test_only_unsure_prompts_are_asked(world: Any, sides: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    plain = probes.Question.__call__
    monkeypatch.setattr(
        probes.Question,
        "__call__",
        lambda self, model, side, **o: (rows.append(len(side)), plain(self, model, side, **o))[1],
    )
    up, down = sides
    options = {"calibrate": (up[:20], down[:20]), "rate": 0.1, "everything": False}
    found = probes.cascade(world, up[40:], down[40:], by_layer(world, 3), ASK, **options)
    assert sum(rows) == int(found["unsure"].sum()) < len(up[40:]) + len(down[40:])


def groups(n: int = 80, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [group, 5], rows and labels: with the property two members rise and the others fall as much."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.arange(n) % 2).double()
    score = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    score = score + 3 * torch.randn(n, 1, dtype=torch.float64, generator=generator)  # a group's own level
    score = score + label[:, None] * torch.tensor([3.0, 3.0, -2.0, -2.0, -2.0], dtype=torch.float64)
    mixed = torch.stack([torch.randperm(5, generator=generator) for _ in range(n)])
    score = score.gather(1, mixed)
    rows = torch.randn(n, 5, 6, dtype=torch.float64, generator=generator)
    rows[..., 0] = score
    return score, rows, label


def test_members_in_another_order_say_the_same() -> None:
    score, rows, _ = groups()
    order = torch.tensor([3, 0, 4, 2, 1])
    for way in WAYS:
        before, after = features_of(way, score, rows), features_of(way, score[:, order], rows[:, order])
        torch.testing.assert_close(before, after)
        assert float(before.std(0).max()) > 0.1
    by_hand = [
        np.mean(
            [
                -torch.cosine_similarity(a, b, dim=0)
                for i, a in enumerate(row)
                for j, b in enumerate(row)
                if i != j
            ]
        )
        for row in rows[:3]
    ]
    np.testing.assert_allclose(features_of("cosine", score, rows)[:3, 0], by_hand)


def test_two_of_five_are_found_by_the_spread_and_not_by_the_mean() -> None:
    score, rows, label = groups(200)
    fresh = torch.arange(200) >= 120
    areas = {}
    for way in WAYS:
        out = _judged(way, features_of(way, score, rows), fresh, label, 4, 1e-2)
        areas[way] = float(_areas(out[None], label[fresh])[0])
    assert min(areas["statistics"], areas["gap"]) > 0.95
    assert abs(areas["mean"] - 0.5) < 0.15
    assert areas["max"] < 0.8
    turned = label[torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    for way in ("statistics", "sorted"):
        out = _judged(way, features_of(way, score, rows), fresh, turned, 4, 1e-2)
        assert abs(float(_areas(out[None], turned[fresh])[0]) - 0.5) < 0.2


def test_groups_on_a_model(world: Any, sides: Any) -> None:
    up, down = sides
    _, probe = probes.fit(world, up[:20], down[:20], layer=3, draws=1, progress=False)
    yes, no = (iter(dict.fromkeys(side[20:])) for side in (up, down))
    some = [[next(yes), next(no), next(no)] for _ in range(8)]
    none = [[next(no), next(no), next(no)] for _ in range(8)]
    found = probes.collective(world, some, none, probe, draws=8)
    assert float(found["value"].sel(way="max")) > 0.9
    assert abs(float(found["shuffled"].mean()) - 0.5) < 0.15
    shuffled_members = [group[::-1] for group in some]
    again = probes.collective(world, shuffled_members, none, probe, draws=8)
    np.testing.assert_allclose(again["value"], found["value"])


def twins(rank: int, n: int = 1200, d: int = 24, seed: int = 0) -> tuple[Any, Any, torch.Tensor]:
    """Pairs of rows: with label 1 they share a code in `rank` dimensions; the other dimensions are noise."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, dtype=torch.float64, generator=generator)
    label = (torch.arange(n) % 2).double()
    code, other = draw(n, rank), draw(n, rank)
    turn = torch.linalg.qr(draw(d, d))[0]
    x, y = draw(n, d), draw(n, d)
    x[:, :rank], y[:, :rank] = code, torch.where(label[:, None] > 0, code, other)
    return x @ turn, y @ turn, label


def test_a_planted_binding_needs_its_rank() -> None:
    x, y, label = twins(8)
    seen, new = (x[:800], y[:800]), (x[800:], y[800:])
    area = {
        rank: float(_areas(scored(fitted(seen, label[:800], rank, 1e-3), new)[None], label[800:])[0])
        for rank in (2, 8, 16)
    }
    assert area[8] > 0.9
    assert area[2] < area[8] - 0.08
    assert area[16] < area[8] + 0.02
    mixed = label[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    out = scored(fitted(seen, mixed[:800], 8, 1e-3), new)
    assert abs(float(_areas(out[None], mixed[800:])[0]) - 0.5) < 0.1


def test_a_pair_has_no_order() -> None:
    x, y, label = twins(3, 200)
    probe = fitted((x, y), label, 3, 1e-2)
    torch.testing.assert_close(scored(probe, (x, y)), scored(probe, (y, x)))
    assert float(scored(probe, (x, y)).std()) > 0.1


def test_pairs_on_a_model(world: Any) -> None:
    """Two mentions of one name are known by their token at layer 0; the end of the sentence is not."""
    task = interp.tasks.ioi(world, n=64, seed=0)
    options = {"layer": [0], "ranks": [8], "draws": 4, "progress": False}
    mentions = probes.pairs(world, task, ("s1", "s2"), ("io", "s2"), **options)
    assert float(mentions["cosine"][0]) > 0.95
    assert float(mentions["value"][0, 0]) > 0.8
    assert abs(float(mentions["shuffled"].mean()) - 0.5) < 0.2
    end = probes.pairs(world, task, ("io", "end"), ("s1", "end"), **options)
    assert float(end["value"][0, 0]) < 0.7


def test_right_probabilities_lie_in_the_band_and_loud_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=2000)
    y = rng.random(2000) < p
    right = probes.reliability(p, y)
    loud = probes.reliability(np.clip((p - 0.5) * 3 + 0.5, 0, 1), y)
    assert float(right["p_value"]) > 0.05 > float(loud["p_value"])
    inside = ((right["value"] >= right["band_low"]) & (right["value"] <= right["band_high"])).mean()
    assert float(inside) >= 0.8
    assert float(loud["ece"]) > 5 * float(loud["ece_chance"])
    assert right["n"].values.tolist() == [200] * 10


def test_calibration_error_by_hand_and_none_of_certain_ones() -> None:
    found = probes.reliability([0.2, 0.4, 0.6, 0.9], [0, 1, 1, 1], bins=2)
    np.testing.assert_allclose(found["predicted"], [0.3, 0.75])
    np.testing.assert_allclose(found["value"], [0.5, 1.0])
    assert float(found["ece"]) == pytest.approx((2 * 0.2 + 2 * 0.25) / 4)
    sure = probes.reliability([0.0, 1.0, 1.0], [0, 1, 1], bins=3)
    assert float(sure["ece"]) == float(sure["ece_chance"]) == 0
    assert (sure["band_low"] == sure["value"]).all()


def test_the_chance_error_is_that_of_right_probabilities() -> None:
    rng = np.random.default_rng(1)
    p = rng.uniform(size=100)
    errors = [float(probes.reliability(p, rng.random(100) < p, draws=1)["ece"]) for _ in range(100)]
    assert float(probes.reliability(p, p > 0.5)["ece_chance"]) == pytest.approx(np.mean(errors), rel=0.1)


def test_mistakes_are_said_before_a_pass(world: Any, sides: Any) -> None:
    up, down = sides
    probe = by_layer(world, 1)
    cases = [
        (lambda: probes.cascade(world, up, down, probe, ASK, calibrate=(up[:3], down[:9])), "3 negatives"),
        (lambda: probes.collective(world, [up[:3]] * 3, [down[:3]] * 4, probe), "3 and 4 groups"),
        (lambda: probes.collective(world, [up[:3]] * 4, [down[:2]] * 4, probe), r"have \[2, 3\] members"),
        (lambda: probes.pairs(world, up, (1, 2), (1, 3), ranks=[0]), r"ranks is \[0\]"),
        (lambda: probes.pairs(world, up, (1, 2), (1, 99)), "99"),
        (lambda: probes.pairs(world, up[:3], (1, 2), (1, 3)), "held_out is 0.3 of 3"),
        (lambda: probes.Question("sorry sorry", "sure")(world, up), "is 2 tokens"),
        (lambda: probes.reliability([0.1, 2.0], [0, 1]), "give 0 to 1"),
        (lambda: probes.reliability([0.1, 0.2], [0, 2]), "labels has"),
        (lambda: probes.reliability([0.1, 0.2], [0]), "2 probabilities and 1 labels"),
    ]  # fmt: skip
    two_sides.refused(world, cases)


@pytest.mark.parametrize("order", [1, -1])
def test_equal_probabilities_are_one_bin_in_whatever_order_the_classes_come(order: int) -> None:
    p, y = [0.2] * 5 + [0.5] * 20, np.array([1] + [0] * 4 + [1] * 10 + [0] * 10)
    found = probes.reliability(p[::order], y[::order], bins=5)
    assert found["n"].values.tolist() == [5, 20]
    assert found["value"].values.tolist() == [0.2, 0.5]
    assert float(found["ece"]) == pytest.approx(0)
    assert float(found["p_value"]) == 1


def test_bins_are_of_equal_size_where_all_differ() -> None:
    p = np.linspace(0, 1, 23)
    assert probes.reliability(p, p > 0.4, bins=5, draws=2)["n"].values.tolist() == [5, 5, 5, 4, 4]


def test_groups_of_the_same_members_are_on_one_side(world: Any, sides: Any) -> None:
    up, down = (list(dict.fromkeys(side)) for side in sides)
    groups = [[side[i], side[i + 1], side[i + 2]] for side in (up, down) for i in range(0, 12, 3)]
    again = [group[::order] for group in groups for order in (1, -1)]
    found = probes.collective(world, again[:8], again[8:], by_layer(world, 1), held_out=0.25, draws=1)
    assert found.attrs["n_held_out"] == 4  # two of eight in each class: one group twice
    with pytest.raises(ValueError, match="units"):
        probes.collective(world, [groups[0]] * 4, [groups[4]] * 4, by_layer(world, 1), draws=1)


def test_groups_that_share_a_member_are_on_one_side(
    world: Any, sides: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member is known by heart wherever it stands: chains of groups that share one are one unit."""
    from interp.probes import _collective

    held: list[torch.Tensor] = []
    judged = _collective._judged
    monkeypatch.setattr(_collective, "_judged", lambda *a: (held.append(a[2]), judged(*a))[1])
    up, down = (list(dict.fromkeys(side)) for side in sides)
    chained = [[side[i], side[i + 1]] for side in (up, down) for i in (0, 1, 3, 4, 6, 7, 9, 10)]
    for seed in range(4):
        options: Any = {"held_out": 0.25, "draws": 1, "seed": seed}
        probes.collective(world, chained[:8], chained[8:], by_layer(world, 1), **options)
    pairs = torch.stack(held).view(len(held), 8, 2)  # neighbours share a member
    assert bool((pairs[..., 0] == pairs[..., 1]).all())
    assert 0 < float(pairs.double().mean()) < 1
    ring = [[side[i], side[(i + 1) % 4]] for side in (up, down) for i in range(4)]
    with pytest.raises(ValueError, match=r"2 units \(groups that share a member stay together"):
        probes.collective(world, ring[:4], ring[4:], by_layer(world, 1), draws=1)


@pytest.mark.parametrize(
    ("groups", "options", "words"),
    [
        (["User: hello"] * 4, {}, "the prompts of its members"),
        ([[1, 2, 3]] * 4, {}, "the prompts of its members"),
        ([None] * 4, {}, "the prompts of its members"),
        ([[[1], [2]]] * 4, {"components": 0}, "components is 0"),
        ([[[1], [2]]] * 4, {"held_out": 2.0}, "held_out is 2.0"),
    ],
)
def test_what_is_no_group_is_told(world: Any, groups: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        probes.collective(world, groups, groups, by_layer(world, 1), **options)


def test_verdicts_that_cannot_be_are_told(world: Any, sides: Any) -> None:
    up, _ = sides
    with pytest.raises(ValueError, match="one token"):
        probes.Question("sorry", "sorry")(world, up[:1])
    with pytest.raises(ValueError, match="probabilities is"):
        probes.reliability(["a"], [1])


def test_pairs_of_one_group_are_shuffled_alike(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    from interp.probes import _pairs

    monkeypatch.setattr(_pairs, "_areas", lambda out, labels: (seen.append(labels), np.zeros(len(out)))[1])
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=24, seed=1)
    options: Any = {
        "groups": [i // 4 for i in range(24)],
        "layer": 1,
        "ranks": [1],
        "draws": 6,
        "held_out": 0.5,
    }
    probes.pairs(model, task, ("io", "end"), ("s1", "end"), progress=False, **options)
    halves = [labels[: len(labels) // 2].reshape(-1, 4) for labels in seen]
    assert all(bool((half == half[:, :1]).all()) for half in halves)
    assert any(0 < float(half.mean()) < 1 for half in halves)
