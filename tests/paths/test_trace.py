"""Following a behaviour back: the story of a model that is known, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from cases import QUIET, task
from two_sides import refused

import interp
from interp.paths import trace_back


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def trace(model):
    return trace_back(model, interp.tasks.ioi(model, n=48, seed=0), depth=2, k=2, **QUIET)


def test_the_story_is_what_path_patching_says(model, trace):
    """Step by step by hand, on the half that selects; figures from the other half."""
    of = interp.tasks.ioi(model, n=48, seed=0)
    search, check = interp.paths._trace.halves(of, 0.95, 0)
    assert len(search) + len(check) == 48
    assert not {tuple(row) for row in search.clean.tolist()} & {tuple(row) for row in check.clean.tolist()}
    first = interp.path_patch(model, search, "all", "logits", **QUIET)
    tested = interp.stats.test(first)
    strong = abs(tested["estimate"]).where(tested["significant"], -1.0)
    best = [str(name) for name in tested["sender"].values[np.argsort(-strong.values)[:2]]]
    effects = trace.effects
    assert [str(s) for s in effects["sender"].values[effects["step"].values == 0]] == best
    names = {f"{head}.{part}" for head in best for part in "qkv"}
    after = effects["receiver"].values[effects["step"].values == 1]
    assert set(map(str, after)) <= names
    assert len(after) > 0
    for cell in range(effects.sizes["cell"]):
        sender, receiver = str(effects["sender"].values[cell]), str(effects["receiver"].values[cell])
        right = interp.path_patch(model, check, [sender], receiver, **QUIET)["value"][:, 0]
        np.testing.assert_allclose(effects["value"][:, cell], right, atol=1e-5)
        edge = trace.circuit.graph.edge(f"{sender}->{receiver}")
        assert float(trace.circuit.scores[edge]) == pytest.approx(float(right.mean()), abs=1e-5)
    assert trace.circuit.n_edges == effects.sizes["cell"]
    assert float(abs(effects["value"].mean("prompt")).max()) > 1


def test_it_is_told_drawn_and_tested(trace):
    lines = str(trace).splitlines()
    assert lines[0].startswith("tiny-ioi on ioi, denoise: effects in logits of")
    assert lines[1].startswith("logits hears L")
    for sender in map(str, trace.effects["sender"].values):
        assert f"{sender} (" in str(trace)
    assert interp.stats.test(trace.effects).attrs["family"] <= trace.effects.sizes["cell"]
    assert len(interp.plot.circuit(trace.circuit, colour="sign").data) > 1
    assert len(interp.plot.bars(trace.effects).data) == 1


def test_bad_input(model):
    few = interp.tasks.ioi(model, n=8, seed=0)
    many = interp.tasks.ioi(model, n=32, seed=0)
    refused(model, [
        (lambda: trace_back(model, few, **QUIET), "has 8 prompts, 4 independent ones .* give 12 or more"),
        (lambda: trace_back(model, many, depth=0, **QUIET), "depth is 0"),
        (lambda: trace_back(model, many, k=0, **QUIET), "k is 0"),
        (lambda: trace_back(model, many, level=95.0, **QUIET), "level is 95.0"),
        (lambda: trace_back(model, many, metric=["logit_diff", "kl"], **QUIET), "decides by one metric"),
        (lambda: trace_back(model, many, freeze="head", **QUIET), "names no place"),
        (lambda: trace_back(model, task(), **QUIET), "6 independent ones|outside the model's vocabulary"),
    ])  # fmt: skip
