"""Circuits by span: the same names in prompts of different templates and lengths."""

from __future__ import annotations

from typing import Any

import masks as M
import numpy as np
import pytest
import torch
from test_score_edges import FEW, model_of

from interp import circuits
from interp.circuits import Circuit, evaluate, prune, run, score_edges, top
from interp.tasks import Task

QUIET: dict[str, Any] = {"progress": False}
SPANS = {"first": [0, [0, 1], 0, 0], "verb": [[2, 3], 2, None, 4]}


def uneven(**options: Any) -> Task:
    return M.uneven(spans=SPANS, **options).with_rest()


def level() -> Task:
    """Three prompts of one length, all read at the end."""
    task = M.task(n_prompts=3)
    return Task.from_tokens(clean=task.clean, corrupt=task.corrupt, answer=[3, 4, 5], wrong=[6, 7, 8])


def test_the_rest_is_what_no_span_marks() -> None:
    task = uneven()
    assert list(task.spans) == ["first", "verb", "rest"]
    covered = torch.stack([*task.spans.values()]).int().sum(0)  # [prompt, pos]
    real = torch.arange(task.clean.shape[1]) < task.lengths[:, None]
    assert torch.equal(covered, real.int())
    with pytest.raises(ValueError, match="has a span 'rest' already"):
        task.with_rest()
    with pytest.raises(ValueError, match="mark every position: nothing is left over"):
        task.with_rest("more")


@pytest.mark.parametrize("name", FEW[:2])
@pytest.mark.parametrize("lazy", [True, False])
def test_a_circuit_by_span_is_that_of_each_prompts_positions(name: str, lazy: bool) -> None:
    """Prompt by prompt, as a circuit by position: the spans of a prompt written out by hand."""
    model, task = model_of(name), uneven()
    found = top(score_edges(model, task, positions="span", **QUIET), 40)
    assert found.spans == ("first", "verb", "rest")
    assert 0 < found.mask.sum(0).bool().sum() <= 40
    whole = run(model, task, [found], lazy=lazy, **QUIET)
    assert whole["value"].std() > 1e-3
    for prompt in range(len(task)):
        n = int(task.lengths[prompt])
        alone = Task.from_tokens(
            clean=task.clean[[prompt], :n], corrupt=task.corrupt[[prompt], :n],
            answer=[int(task.answer[prompt].max())], wrong=[int(task.wrong[prompt].max())],
        )  # fmt: skip
        mask = torch.zeros(n, *found.mask.shape[1:], dtype=torch.bool)
        for pos in range(n):
            for number, span in enumerate(found.spans):
                if task.spans[span][prompt, pos]:
                    mask[pos] |= found.mask[number]
        wanted = run(model, alone, mask[None], **QUIET)
        np.testing.assert_allclose(whole["raw"][prompt], wanted["raw"][0], atol=1e-9)


def test_all_spans_together_are_the_model_and_none_is_nothing() -> None:
    model, task = model_of(FEW[0]), uneven()
    scores = score_edges(model, task, positions="span", **QUIET)
    every = top(scores, int(scores["value"].notnull().any("prompt").sum()))
    found = run(model, task, [every, top(scores, 0)], **QUIET)
    np.testing.assert_allclose(found["raw"][:, 0], found["clean"], atol=1e-9)
    np.testing.assert_allclose(found["raw"][:, 1], found["empty"], atol=1e-9)
    assert abs(found["clean"] - found["empty"]).min() > 1e-2
    plain = Circuit(every.graph, every.graph.allowed, name="whole")
    beside = run(model, task, [plain, top(scores, 40)], **QUIET)  # with and without spans in one call
    np.testing.assert_allclose(beside["raw"][:, 0], found["clean"], atol=1e-9)
    alone = run(model, task, top(scores, 40), **QUIET)
    np.testing.assert_allclose(beside["raw"][:, 1], alone["raw"][:, 0], atol=1e-9)


def test_prompts_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = model_of(FEW[1]), uneven()
    found = top(score_edges(model, task, positions="span", **QUIET), 40)
    whole = run(model, task, found, **QUIET)["raw"]
    monkeypatch.setattr("interp.circuits._run.job.Job._prompts_at_once", lambda self, rebased: 3)
    np.testing.assert_allclose(run(model, task, found, **QUIET)["raw"], whole, atol=1e-9)


def test_a_circuit_by_span_is_evaluated_pruned_and_combined() -> None:
    model, task = model_of(FEW[0]), uneven()
    scores = score_edges(model, task, positions="span", **QUIET)
    found = prune(top(scores, 60))
    assert found.spans == ("first", "verb", "rest")
    assert (found & top(scores, 30)).spans == found.spans
    judged = evaluate(model, task, found, measures=["completeness", "minimality"], subsets=2, **QUIET)
    wanted = run(model, task, found, **QUIET)
    np.testing.assert_allclose(judged["value"], wanted["value"], atol=1e-9)
    full = evaluate(model, task, top(scores, int(scores["value"].notnull().any("prompt").sum())), **QUIET)
    assert float(full["faithfulness"][0]) == pytest.approx(1)
    member = circuits.ensemble([scores, found])
    assert member["value"].dims == ("span", "writer", "reader")


def test_pruning_lets_keys_carry_between_spans_in_any_order() -> None:
    """input -> a0.h0<v> in one span, a0.h0 -> logits in another: connected whichever comes first."""
    graph = circuits.Graph(1, 1, attn_only=True)
    for spans in (("late", "early"), ("early", "late")):
        mask = torch.zeros(2, *graph.allowed.shape, dtype=torch.bool)
        mask[0][graph.edge("input->a0.h0<v>")] = True
        mask[1][graph.edge("a0.h0->logits")] = True
        mask[1][graph.edge("input->a0.h0<q>")] = True
        named = Circuit(graph, mask, provenance={"spans": str(list(spans)).replace("'", '"')})
        assert torch.equal(prune(named).mask, mask)
    backwards = Circuit(graph, mask.flip(0))  # by position nothing flows back
    assert prune(backwards).n_edges < 3


def test_spans_that_do_not_fit_are_sentences() -> None:
    model, task = model_of(FEW[0]), uneven()
    found = top(score_edges(model, task, positions="span", **QUIET), 20)
    with pytest.raises(ValueError, match="is by the spans first, verb, rest, and the task has no verb, rest"):
        run(model, M.uneven(spans={"first": SPANS["first"]}), found, **QUIET)
    by_pos = Circuit(found.graph, found.mask[:1].expand(task.clean.shape[1], -1, -1), name="p")
    with pytest.raises(ValueError, match="'p' is by position and others are by span"):
        run(model, task, [found, by_pos], **QUIET)
    with pytest.raises(ValueError, match="the mask has 2 spans and 3 names"):
        Circuit(found.graph, found.mask[:2], provenance=found.provenance)
    other = Circuit(found.graph, found.mask, provenance={"spans": '["a", "b", "c"]'}, name="o")
    with pytest.raises(ValueError, match="are by different spans"):
        _ = found | other


@pytest.mark.parametrize("method", ["eap", "secant"])
@pytest.mark.parametrize("positions", [False, True, "span"])
def test_without_prompts_scores_are_their_mean(positions: bool | str, method: str) -> None:
    """Of a span over the prompts that have it; circuits of the mean are circuits of the scores by prompt."""
    model, task = model_of(FEW[1]), uneven() if positions == "span" else level()
    options: dict[str, Any] = {"method": method, "positions": positions, "batch_size": 2, **QUIET}
    if positions == "span":
        assert not task.spans["verb"].any(1).all()  # one prompt has no verb
    every, mean = score_edges(model, task, **options), score_edges(model, task, by_prompt=False, **options)
    wanted = every["value"].mean("prompt")
    assert mean["value"].dims == wanted.dims == every["value"].dims[1:]
    np.testing.assert_allclose(mean["value"], wanted, atol=1e-12)
    assert float(abs(wanted).max()) > 1e-3
    np.testing.assert_array_equal(mean["clean"], every["clean"])
    if not positions:
        assert torch.equal(top(mean, 40).mask, top(every, 40).mask)
