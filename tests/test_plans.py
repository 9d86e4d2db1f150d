"""What `interp.plan` foresees: FLOPs as torch counts them, shapes without weights, and its command."""

from __future__ import annotations

import dataclasses
import inspect
import math
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from words import verbs

import interp
from interp import circuits
from interp.cli import main
from interp.models import anatomy
from interp.plans import SHAPES, VERBS, Shape, Sizes
from interp.tasks import Loss, Task

QUIET = {"progress": False}
WITHIN = 0.1  # of the FLOPs that are counted: gates, norms of the stream and trust checks are not foreseen


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


@pytest.fixture(scope="module")
def task(model) -> Task:
    return interp.tasks.ioi(model, n=8, template=0)


def flops(call) -> int:
    call()  # the trust check
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused products hide
        call()
    return counter.get_total_flops()


def test_flops_of_estimates_are_those_that_torch_counts(model, task) -> None:
    """Of a metric that reads all logits."""
    options = {"metric": Loss()}
    for method in ("atp", "ig"):
        call = partial(interp.attribute, model, task, "z", method=method, **options, **QUIET)
        foreseen = interp.plan("attribute", model, task, method=method, **options)
        assert foreseen.flops == pytest.approx(flops(call), rel=WITHIN)


def test_circuits_take_at_most_what_is_foreseen(model, task) -> None:
    graph = circuits.Graph.of(model)
    mask = graph.allowed & (torch.rand(graph.allowed.shape, generator=torch.Generator().manual_seed(0)) < 0.5)
    foreseen = interp.plan("run", model, task, runs=1)
    counted = flops(lambda: circuits.run(model, task, circuits.Circuit(graph, mask), **QUIET))
    assert foreseen.flops / 3 < counted < 1.5 * foreseen.flops
    assert "at most" in str(foreseen)


def test_a_shape_is_planned_for_as_a_model_of_it(model, task) -> None:
    """Without weights: the same counts from sizes alone."""
    facts = anatomy(model)
    names = ("n_layers", "n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp", "d_vocab")
    gated = bool(getattr(model.cfg, "gated_mlp", False))
    shape = Shape(**{name: getattr(facts, name) for name in names}, gated=gated)
    sizes = Sizes(len(task), task.clean.shape[1], int((task.clean != task.corrupt).any(0).int().argmax()))
    for verb in ("attribute", "score_edges", "exact", "run", "sweep"):
        ours, theirs = interp.plan(verb, shape, sizes), interp.plan(verb, model, task)
        assert ours.flops == pytest.approx(theirs.flops, rel=0.02)
        assert (ours.memory, ours.forwards, ours.backwards) == (
            theirs.memory,
            theirs.forwards,
            theirs.backwards,
        )
    grid = interp.plan("patch", shape, sizes, "resid_pre")
    assert grid.cells == facts.n_layers * sizes.tokens
    assert math.isfinite(grid.seconds)
    assert grid.seconds > 0


def test_large_models_by_hand() -> None:
    """Llama-3-8B has 6.98e9 weights in its blocks' products, and a token takes two FLOPs of each."""
    llama = SHAPES["llama-3-8b"]
    rows = 2 * llama.d_model * (4096 + 4096 + 2 * 1024 + 3 * 14336) * 32
    pairs, logits = 4 * 4096 * 20 * 32, 2 * 4096 * 2  # logits of answer and wrong, at the end
    plan = interp.plan("attribute", "llama-3-8b", Sizes(64, 20))
    assert plan.flops == pytest.approx(64 * 3 * (20 * (rows + pairs) + logits))
    assert (plan.forwards, plan.backwards) == (128, 64)
    edges = interp.plan("score_edges", "llama-3-8b", Sizes(128, 50))
    assert "1.6 GiB more" in edges.note  # 128 prompts of 1,057 writers by 1,569 readers, 8 bytes each
    assert pytest.approx(1.58, abs=0.01) == 128 * 1057 * 1569 * 8 / 2**30
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.flops = 0.0


@pytest.mark.parametrize("threshold", [math.inf, 0.3, 0.02, -math.inf])
def test_acdc_takes_rows_between_its_bounds(model, task, threshold: float) -> None:
    few = task[:2]
    plan = interp.plan("acdc", model, few)
    rows = circuits.acdc(model, few, threshold, **QUIET).provenance["rows"]
    least, most = plan.least_forwards // len(few) - 2, plan.forwards // len(few) - 2
    assert least <= rows <= most
    if threshold == math.inf:
        assert rows == least
    assert f"{plan.least_forwards:,} to {plan.forwards:,} forwards" in str(plan)


def verbs_with_memory() -> set[str]:
    return {
        name.rpartition(".")[2] for name, verb in verbs() if "memory" in inspect.signature(verb).parameters
    }


def test_every_verb_that_takes_memory_can_be_planned_for(model) -> None:
    """By its name; `circuits.exact` and `circuits.run` by theirs."""
    names = verbs_with_memory() - {"plan", "explore", "grade"}
    assert len(names) > 15
    assert names <= set(VERBS)
    for name in names - {"patch"}:
        plan = interp.plan(name, "gpt2", Sizes(4, 10), runs=2)
        assert plan.verb == name
        assert plan.forwards > 0
        assert 0 < plan.flops < math.inf


def test_a_prompt_that_does_not_fit_is_planned_block_by_block() -> None:
    """A forward more for the backward, and the bytes of one block."""
    for verb in ("attribute", "score_edges"):
        whole, tight = (
            interp.plan(verb, "llama-3-70b", Sizes(1, 200), memory=2**30 * gib) for gib in (200, 8)
        )
        assert tight.forwards == whole.forwards + 1
        assert tight.memory < whole.memory / 2


def test_mistakes(model, task) -> None:
    with pytest.raises(ValueError, match="did you mean 'patch'"):
        interp.plan("path", model, task)
    with pytest.raises(ValueError, match="no known shape"):
        interp.plan("run", "llama", Sizes(1, 1))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "attribute", "llama-3-8b", "--n", "8", "--tokens", "10"]) == 0
    assert "16 forwards and 8 backwards of 8 prompts" in capsys.readouterr().out
    assert main(["plan", "attribute", "llama-3-8b", "--tokens", "0"]) == 2
