"""Every verb against plain hooks on transformers' own model: a figure below the bound, or a sentence."""

from __future__ import annotations

import os

import pytest
import torch
import verbs
import zoo

QUICK = (
    "GPT-J",
    "OPT",
    "Bloom",
    "Mistral",
    "Gemma 3",
    "OLMo 2",
    "Cohere",
    "Mixtral",
    "Phi 3, longrope",
)  # the rest by `make matrix`
whole = pytest.mark.skipif(
    "INTERP_MATRIX" not in os.environ, reason="by make matrix, or with INTERP_MATRIX=1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=whole) for name in zoo.FAMILIES]
)
def test_every_verb_is_right_or_refused(name: str) -> None:
    cells = verbs.check(name)
    bridged = cells["load"].note == "TransformerBridge"  # a HookedTransformer has rotary tables of its own
    bound = 1e-9 if bridged and zoo.dtype_of(name) == torch.float64 else 1e-5
    wrong = {verb: cell for verb, cell in cells.items() if not (cell.error is None or cell.error <= bound)}
    assert not wrong
    assert (cells["load"].error is None) == (name in zoo.refused())


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_cannot_be_run_is_refused_by_name(name: str) -> None:
    assert zoo.FAMILIES[name][0] in verbs.check(name)["load"].note
