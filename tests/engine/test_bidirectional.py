"""Attention that goes both ways: nothing is cut by causality, and padding is never attended to."""

from __future__ import annotations

import warnings

import architectures
import pytest
import torch

import interp
from interp import steering


@pytest.fixture(scope="module")
def model():
    return architectures.build({"attention_dir": "bidirectional"})


def task(rows, positions=0):
    corrupt = [[row[0], 25, *row[2:]] for row in rows]
    n = len(rows)
    return interp.Task.from_tokens(
        clean=rows, corrupt=corrupt, answer=[5] * n, wrong=[6] * n, positions=[positions] * n
    )


def test_no_cell_is_a_no_op_by_causality(model):
    """The first position is read; what differs stands after it."""
    given = task([[1, 2, 3, 4]])
    with pytest.warns(UserWarning, match="attention is not causal"):
        exact = interp.patch(model, given, "resid_pre", progress=False)
    last = abs(exact["value"].sel(layer=1))
    assert float(last.min()) > 1e-3
    plan = interp.plan(model, given, "resid_pre")
    assert plan.live == 1 + 2 * 4  # layer 0: the token that differs
    patterns = interp.plan(model, given, "pattern", ("layer", "head", "dst", "src"))
    assert patterns.no_ops == 4 * 3 * 4  # of the last layer, other destinations than the one that is read
    assert interp.plan(model, given, "z", ("layer", "pos", "head")).live >= 2 * 4 * 4


def test_prompts_of_several_lengths_are_refused(model):
    with pytest.raises(ValueError, match=r"have 3 to 5 tokens, .* goes both ways"):
        interp.patch(model, task([[1, 2, 3], [1, 2, 3, 4, 5]]), "resid_pre", progress=False)


def test_extraction_does_not_depend_on_the_batch(model):
    rows = [[1, 2, 3], [1, 2, 3, 4, 5], [4, 5, 6], [7, 8, 9, 10, 11]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = steering.activations(model, rows, "L2.resid_pre", "last")
        alone = [steering.activations(model, [row], "L2.resid_pre", "last") for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
