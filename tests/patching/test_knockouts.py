"""Knock-outs over several tasks: a planted double dissociation, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
import toys

import interp
from interp.patching import knockouts

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def skills():
    sketch = toys.two_skills()
    tasks = {
        "colours": toys.task(sketch, toys.WORDS, "colours"),
        "animals": toys.task(sketch, ("cat", "dog", "hen", "ox"), "animals"),
    }
    return toys.model(sketch), tasks


def test_a_double_dissociation_is_found(skills):
    model, tasks = skills
    found = knockouts(model, tasks, {"c": ["L0H0"], "a": ["L0H1"], "idle": ["L0H5"]}, **QUIET)
    # Resampling turns the answer into the wrong one: from 10 to −10, twice what knowing nothing costs.
    np.testing.assert_allclose(found["value"].values, [[2, 0], [0, 2], [0, 0]], atol=1e-9)
    assert found.attrs["dissociations"] == "c hits colours and spares animals, a the reverse"
    assert found["hits"].values.tolist() == [[True, False], [False, True], [False, False]]
    assert found["random"].sizes["draw"] == 23  # as many other heads as there are
    assert float(found["p"].sel(set="c", task="colours")) == pytest.approx(1 / 24)


def test_one_direction_alone_is_no_dissociation(skills):
    model, tasks = skills
    found = knockouts(model, tasks, {"c": ["L0H0"], "both": ["L0H0", "L0H1"]}, draws=20, **QUIET)
    assert found.attrs["dissociations"] == "none"
    np.testing.assert_allclose(found["value"].values, [[2, 0], [2, 2]], atol=1e-9)


def test_random_sets_match_layer_by_layer():
    model = interp.load("tiny-ioi")
    from interp.models import anatomy
    from interp.patching._matched import matched_sets, places_of

    places = places_of(anatomy(model), 8, ["L0H1", "L0H2", "L2H0", "L1N3"])
    drawn = matched_sets(anatomy(model), places, 50, np.random.default_rng(0))
    assert len({tuple(each) for each in drawn}) == 50
    for names in drawn:
        assert sorted(name[:3] for name in names) == ["L0H", "L0H", "L1N", "L2H"]
        assert len(set(names)) == 4
        assert names != sorted(map(str, places))


def test_effects_are_those_of_patching_the_whole_set():
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=6)
    found = knockouts(model, [task], {"s": ["L0H0", "L2H1"]}, draws=2, **QUIET)
    effect = interp.patch(model, task, cells=[["L0H0", "L2H1"]], direction="noise", **QUIET)
    assert float(found["value"][0, 0]) == pytest.approx(
        float(effect["value"].sum() / effect["clean"].sum()), abs=1e-5
    )
    assert abs(float(found["value"][0, 0])) > 0.1


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ({}, {}, "at least"),
        ({"s": ["L0.mlp_out"]}, {}, "no other set like MLP0"),
        ({"s": ["L0H0", "L0H0"]}, {}, "named twice"),
        ({"s": "L0H0"}, {}, "sets is"),
        ({"s": ["L0H0"]}, {"metric": "prob"}, "Give chance="),
        ({"s": ["L0H0"]}, {"metric": "prob", "chance": 1.0}, "no better than chance"),
        ({"s": ["L0H0"]}, {"draws": 0}, "draws is 0"),
    ],
)
def test_bad_input_is_one_sentence(sets, options, message):
    model = interp.load("tiny-ioi")
    with pytest.raises(ValueError, match=message):
        knockouts(model, [interp.tasks.ioi(model, n=4)], sets, **options, **QUIET)
