"""Slopes with the graph of one block at a time: those of the whole graph, at a fraction of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import architectures
import held
import numpy as np
import pytest
import small
from cases import QUIET, task
from estimates import FEW, model_of

from interp.attribution import attribute
from interp.attribution._passes import prompt_bytes
from interp.circuits import Graph, score_edges
from interp.circuits._score.passes import sizes
from interp.engine import block as B
from interp.engine.memory import Budget
from interp.methods import GIM, IG, Atp, AtpStar, AttnLRP, GradPath, Method, Relp
from interp.models import anatomy, is_bridge
from interp.tasks import KL, LogitDiff, LogProb

KINDS = [FEW[0], "attn-only", "post-norm", "soft-cap"]
METHODS = [Atp(), IG(steps=2), AtpStar(), Relp(ah=False), AttnLRP(), GIM()]
EDGES = [Atp(), IG(steps=1, variant="activations"), GradPath(steps=1), Relp(ah=False)]
SITES = ("z", "resid_pre", "resid_post")


@contextmanager
def blocks_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The layers of the blocks that our forward runs, in order."""
    run: list[int] = []
    plain = B.through_attention

    def counting(block: Any, layer: int, *rest: Any) -> Any:
        run.append(layer)
        return plain(block, layer, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(B, "through_attention", counting)
        yield run


@contextmanager
def by_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every estimate takes one prompt at a time, and of it one block."""
    with monkeypatch.context() as patched:
        patched.setattr("interp.attribution._estimate.at_once", lambda *bytes: (1, True))
        real = sizes
        patched.setattr(
            "interp.circuits._score.estimates.sizes",
            lambda *given: real(*given)._replace(prompts=1, by_block=True),
        )
        yield


def compared(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    whole = call()
    with by_block(monkeypatch):
        found = call()
    largest = float(abs(whole["value"]).max())
    assert largest > 1e-3
    np.testing.assert_allclose(found["value"], whole["value"], rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_estimates_are_those_of_the_whole_graph(
    kind: str, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind)
    metrics = [LogitDiff(), KL()] if method == Atp() else None
    call = partial(attribute, model, task(n=2), SITES, "layer", method=method, metric=metrics, **QUIET)
    compared(call, monkeypatch, 1e-5 if is_bridge(model) else 1e-12)


@pytest.mark.parametrize("method", EDGES, ids=lambda method: method.edge_name)
def test_edges_are_those_of_the_whole_graph(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.model()
    metrics = [LogitDiff(), LogProb()]
    call = partial(score_edges, model, task(n=2), method=method, metric=metrics, **QUIET)
    compared(call, monkeypatch, 1e-5 if is_bridge(model) else 1e-12)


def deep() -> Any:
    return architectures.build({"n_layers": 12, "d_mlp": 192})


needs_hooked = pytest.mark.skipif(
    not architectures.has_hooked_transformer(), reason="no HookedTransformer in this release"
)


@needs_hooked
def test_blocks_are_run_again_and_less_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one prompt does not fit: a forward more for the backward, and at most the bytes foreseen."""
    model, layers = deep(), list(range(12))
    given = anatomy(model), 8, 9, ("z",), 1, 1
    whole, least = prompt_bytes(*given), prompt_bytes(*given, by_block=True, n_logits=4)
    assert least < whole / 3
    call = partial(attribute, model, task(n=1), "z", **QUIET)
    call()  # the trust check
    with blocks_run(monkeypatch) as run:
        peak = held.peak(call)
        assert run == [*layers, *layers]
    with blocks_run(monkeypatch) as run:
        peak_by_block = held.peak(partial(call, memory=(whole + least) // 2))
        assert run == [*layers, *layers, *reversed(layers)]
    assert peak_by_block <= least
    assert peak_by_block < peak / 2


@needs_hooked
def test_edges_hold_less_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers = deep(), list(range(12))
    room = sizes(Budget(anatomy(model), 1), 9, Graph.of(model))
    assert room.by_block
    call = partial(score_edges, model, task(n=1), **QUIET)
    whole = call()
    peak = held.peak(call)
    results = []
    with blocks_run(monkeypatch) as run:
        bounded = held.peak(lambda: results.append(call(memory=room.least)))
    assert run == [*layers, *layers, *reversed(layers)]
    graph = Graph.of(model)
    scores = 24 * len(graph.writers) * len(graph.readers)
    assert bounded <= room.least + scores
    assert bounded < peak
    np.testing.assert_allclose(results[0]["value"], whole["value"], rtol=0, atol=1e-12)


def test_a_block_of_one_prompt_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small.model()
    calls = [partial(attribute, model, task(), "z"), partial(score_edges, model, task())]
    with blocks_run(monkeypatch) as run:
        for call in calls:
            with pytest.raises(ValueError, match=r"memory= is .* one prompt of 9 tokens takes .* the least"):
                call(memory=1000, **QUIET)
    assert run == []
