"""Every public verb says what is wrong with an argument, before it does anything."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from words import verbs

import interp
from interp._arguments import kinds_of
from interp.tasks import LogitDiff

VERBS = {name: verb for name, verb in verbs() if name != "interp.load"}
NONSENSE: dict[str, Any] = {
    "object": object(),
    "class": LogitDiff,
    "complex": 1j,
    "frame": pd.DataFrame({"a": [1]}),
    "meta": torch.ones(2, 3, 4, 5, 6, 7, device="meta"),
    "nan": torch.full((2, 3, 4, 5, 6, 7), torch.nan),
}


def checked(name: str) -> list[str]:
    """The arguments of a verb whose types are known."""
    parameters = inspect.signature(VERBS[name]).parameters
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p, each in parameters.items() if each.kind in plain and kinds_of(str(each.annotation))]


def test_nearly_all_arguments_are_checked() -> None:
    every = [len(inspect.signature(verb).parameters) for verb in VERBS.values()]
    assert sum(len(checked(name)) for name in VERBS) > 0.75 * sum(every)


@pytest.mark.parametrize("name", sorted(VERBS))
def test_nonsense_is_refused_by_name(name: str) -> None:
    """No other argument is needed for it: the door comes first."""
    for argument in checked(name):
        for what, value in NONSENSE.items():
            about = "expected a TransformerLens model" if argument == "model" else f"{argument} is "
            with pytest.raises(
                ValueError, match=about
            ) as refused:  # and no TypeError: it did not come through
                VERBS[name](**{argument: value})
            assert argument == "model" or "; give " in str(refused.value), (argument, what)


@pytest.mark.parametrize("level", ["0.95", None, True, float("nan"), [0.9]])
def test_numbers_are_numbers(level: Any) -> None:
    with pytest.raises(ValueError, match=r"level is .*; give a number"):
        interp.stats.bootstrap(xr.Dataset(), level=level)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("seed", -1, "seed is -1; it must be a whole number from 0"),
        ("seed", 2**70, "seed is"),
        ("seed", 1.0, r"seed is 1\.0; give a whole number"),
        ("batch_size", 2**40, "batch_size is"),
        ("progress", "no", "progress is 'no'; give True or False"),
        ("site", 5, "site is 5; give a string, or a list, each a string"),
        ("cells", 5, "cells is 5"),
        ("neurons", 3, "neurons is 3; give a list, each a whole number"),
        ("neurons", [True], r"neurons is \[True\]"),
        ("direction", torch.ones(3), r"direction is a Tensor \[3\] of torch.float32; give a string"),
        ("model", "gpt2", r"got the name 'gpt2'. Load one with interp.load\('gpt2'\)"),
        ("task", ["a"], r"task is \['a'\]; give a Task"),
    ],
)
def test_the_sentence_says_the_value_and_what_to_give(argument: str, value: Any, said: str) -> None:
    verb = interp.attribution.screen if argument == "seed" else interp.patch
    with pytest.raises(ValueError, match=said):
        verb(**{argument: value})


def test_numbers_of_numpy_and_tensors_are_numbers() -> None:
    """And arrays are lists or tensors, where such are wanted."""
    up, down = np.random.default_rng(0).normal(size=(2, 6, 3))
    theirs = interp.steering.estimators.lda(up, down, ridge=np.float32(0.5))
    ours = interp.steering.estimators.lda(torch.tensor(up), torch.tensor(down), ridge=0.5)
    torch.testing.assert_close(theirs, ours)
    assert interp.steering.measures.repetition([[1, 2, 1, 2, 1]], n=torch.tensor(2)).tolist() == [0.5]
    model = interp.load("tiny-ioi")
    task = interp.tasks.ioi(model, n=np.int64(4), seed=np.int32(0), template=1)
    asked = {"neurons": np.array([3, 5]), "batch_size": np.int64(4), "progress": np.bool_(False)}
    found = interp.patch(model, task[np.int64(0)], "post", **asked)
    assert found["neuron"].values.tolist() == [3, 5]
    by_hand = interp.patch(model, task[:1], "post", neurons=[3, 5], progress=False)
    np.testing.assert_allclose(found["value"], by_hand["value"], atol=1e-5)
    assert abs(by_hand["value"]).max() > 0


def test_a_sentence_is_short() -> None:
    with pytest.raises(ValueError, match="seed is") as refused:
        interp.attribution.screen(seed=["x" * 1000])
    assert len(str(refused.value)) < 200
