"""Many circuits at once: against the plain forward, against hooks, against the whole-model reference."""

from __future__ import annotations

from typing import Any

import architectures
import masks as M
import naive
import pytest
import small
import torch
from model_folders import needs_hooked

from interp import circuits
from interp.circuits import Circuit, Graph
from interp.circuits._reference import Reference
from interp.circuits._run.ablation import replacements
from interp.models import is_bridge
from interp.tasks import KL, LogitDiff, Loss, Task

# Every fifth of the product, which mixes all of its choices, and all extras.
GRID = [name for name, _ in architectures.grid()][:240:5]
GRID += [name for name, _ in architectures.extras() if name not in M.POST_NORM]
SOME = [
    ("LN-gelu_new-plain-serial-mha-learned", "resample"),
    ("RMS-silu-gated-parallel-gqa-rotary", "zero"),
    ("RMSPre-relu-plain-serial-gqa-rotary", "resample"),
    ("attn-only", "mean"),
    ("local", "zero"),
]


def build(name: str) -> Any:
    return architectures.build(dict(architectures.grid())[name])


@pytest.fixture(scope="module")
def model() -> Any:
    return small.model()


@needs_hooked
@pytest.mark.parametrize("name", GRID)
def test_full_is_the_model_empty_the_corrupt_run_and_any_other_the_hooks(name: str) -> None:
    model, task = build(name), M.task()
    graph = Graph.of(model)
    ends = torch.stack((graph.allowed, torch.zeros_like(graph.allowed)))
    some = M.drawn(graph, 1, seed=len(name), least=0.8)
    full, empty, *others = M.raw(model, task, torch.cat((ends, some)))
    torch.testing.assert_close(full, M.plain(model, task, task.clean), atol=1e-10, rtol=0)
    torch.testing.assert_close(empty, M.plain(model, task, task.corrupt), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        torch.stack(others), M.by_hooks(model, task, some, "resample"), atol=1e-10, rtol=0
    )
    assert (full - empty).abs().min() > 1e-3
    assert (full - others[0]).abs().max() > 1e-4


@needs_hooked
@pytest.mark.parametrize(("name", "ablation"), SOME)
def test_many_at_once_are_one_by_one_are_the_hooks(name: str, ablation: str) -> None:
    model, task = build(name), M.task()
    masks = M.drawn(Graph.of(model), 9)
    expected = M.by_hooks(model, task, masks, ablation)
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 64}, {"lazy": False}, {"memory": 1}):
        found = M.raw(model, task, masks, ablation, **options)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert (expected.abs().min(), expected.std(0).min()) > (1e-3, 1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_a_bridge(family: str) -> None:
    """Norms inside a bridge compute in float32."""
    model, task = small.bridge(family), M.task()
    graph = Graph.of(model)
    ends = torch.stack((graph.allowed, torch.zeros_like(graph.allowed)))
    full, empty = M.raw(model, task, ends)
    torch.testing.assert_close(full, M.plain(model, task, task.clean), atol=1e-5, rtol=0)
    torch.testing.assert_close(empty, M.plain(model, task, task.corrupt), atol=1e-5, rtol=0)
    masks, reference = M.drawn(graph, 4), Reference(model, task)
    expected = torch.stack([reference(mask) for mask in masks])
    torch.testing.assert_close(M.raw(model, task, masks), expected, atol=1e-10, rtol=0)
    assert is_bridge(model)
    assert (full - expected).abs().min() > 1e-4


@pytest.mark.parametrize("metric", [LogitDiff(), KL(), Loss()])
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_metrics_and_directions(model: Any, metric: Any, direction: str) -> None:
    """Loss reads every position, KL every column; denoise runs the corrupt prompts, cuts bring in clean."""
    task, masks = M.task(), M.drawn(Graph.of(model), 5)
    reference = Reference(model, task, "resample", metric, direction)
    expected = torch.stack([reference(mask) for mask in masks])
    for lazy in (True, False):
        found = M.raw(model, task, masks, direction=direction, metric=metric, lazy=lazy)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert expected[1:].abs().min() > 1e-6


def test_denoising_swaps_the_runs_and_keeps_the_answers(model: Any) -> None:
    task, masks = M.task(), M.drawn(Graph.of(model), 4)
    swapped = task.swap()  # its answers are the wrong ones, so the difference of logits turns its sign
    found = M.raw(model, task, masks, direction="denoise")
    torch.testing.assert_close(found, -M.raw(model, swapped, masks), atol=1e-12, rtol=0)
    assert found.abs().min() > 1e-3


@pytest.mark.parametrize("metric", [LogitDiff(), Loss()])
@pytest.mark.parametrize("config", [{}, {"n_key_value_heads": 2, "parallel_attn_mlp": True}])
@needs_hooked
def test_masks_with_positions(config: dict[str, Any], metric: Any) -> None:
    model, task = architectures.build(config), M.task()[[0]]
    graph, n_pos = Graph.of(model), task.clean.shape[1]
    masks, reference = M.drawn(graph, 4, n_pos=n_pos), Reference(model, task, "zero", metric)
    expected = torch.stack([reference(mask) for mask in masks])
    for options in ({"lazy": False}, {"batch_size": 1}, {}):
        found = M.raw(model, task, masks, "zero", metric=metric, **options)
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    everywhere = M.drawn(graph, 3)
    torch.testing.assert_close(
        M.raw(model, task, everywhere[:, None].repeat(1, n_pos, 1, 1)),
        M.raw(model, task, everywhere),
        atol=1e-10,
        rtol=0,
    )
    assert (expected - expected[:1]).abs()[1:].min() > 1e-6


@needs_hooked
def test_one_edge_cut_at_one_position_is_the_hooks() -> None:
    """The replacement elsewhere is what the writer writes anyway."""
    model, task = architectures.build({}), M.task()[[0]]
    graph, rows = Graph.of(model), torch.arange(1)
    _, now = naive.forward(model, task.clean)
    other = naive.replacements(model, task, "resample")
    for edge, pos in (("a0.h1->a1.h2<k>", 3), ("input->a1.h0<v>", 5), ("m0->m2", 8)):
        writer = edge.split("->")[0]
        replaced = now[writer].clone()
        replaced[:, pos] = other[writer][:, pos]
        logits = naive.answer_logits(model, task, [edge], {writer: replaced})
        mask = graph.allowed.expand(1, task.clean.shape[1], -1, -1).clone()
        mask[(0, pos, *graph.edge(edge))] = False
        expected = logits[rows, task.answer] - logits[rows, task.wrong]
        found = M.raw(model, task, mask)[0]
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
        assert (found - M.plain(model, task, task.clean)).abs() > 1e-5


def test_learned_constants(model: Any) -> None:
    task, graph = M.task(), Graph.of(model)
    masks = M.drawn(graph, 5)
    shape = (len(graph.writers), 24)
    constants = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = Reference(model, task, constants)
    expected = torch.stack([reference(mask) for mask in masks])
    torch.testing.assert_close(M.raw(model, task, masks, constants), expected, atol=1e-10, rtol=0)
    zero = M.raw(model, task, masks, "zero")
    torch.testing.assert_close(
        M.raw(model, task, masks, torch.zeros(shape, dtype=torch.float64)), zero, atol=1e-10, rtol=0
    )
    assert (expected - zero).abs().min() > 1e-4


@pytest.mark.parametrize("ablation", ["resample", "zero"])
def test_a_padded_batch_is_prompt_by_prompt(model: Any, ablation: str) -> None:
    task = M.uneven()
    masks = M.drawn(Graph.of(model), 4)
    found = M.raw(model, task, masks, ablation)
    for i, length in enumerate(task.lengths.tolist()):
        rows = {name: getattr(task, name)[[i], :length] for name in ("clean", "corrupt")}
        alone = Task.from_tokens(**rows, answer=task.answer[[i]], wrong=task.wrong[[i]])
        torch.testing.assert_close(
            M.raw(model, alone, masks, ablation)[:, 0], found[:, i], atol=1e-10, rtol=0
        )
    assert found.abs().min() > 1e-4


def test_prompts_in_any_company(model: Any) -> None:
    """A prompt has the same values alone, among others, and when memory splits the batch."""
    task = M.task(n_prompts=5)
    masks = M.drawn(Graph.of(model), 3)
    found = M.raw(model, task, masks)
    for some in ([0], [3, 1], [4, 2, 0]):
        torch.testing.assert_close(M.raw(model, task[some], masks), found[:, some], atol=1e-10, rtol=0)
    torch.testing.assert_close(M.raw(model, task, masks, memory=1), found, atol=1e-10, rtol=0)
    assert found.abs().min() > 1e-4


@needs_hooked
def test_means_leave_padding_out(model: Any) -> None:
    """Position by position, by a loop over the prompts that are long enough."""
    task = M.uneven()
    found, (_, writes) = replacements(model, task, "mean"), naive.forward(model, task.corrupt)
    for number, writer in enumerate(Graph.of(model).writers):
        for pos in range(task.clean.shape[1]):
            long = [i for i, length in enumerate(task.lengths.tolist()) if pos < length]
            mean = sum(writes[writer][i, pos] for i in long) / len(long)
            for i in long:
                torch.testing.assert_close(found[number, i, pos], mean, atol=1e-10, rtol=0)
    assert found.abs().mean() > 1e-2
    masks = M.drawn(Graph.of(model), 4)
    expected = M.by_hooks(model, task, masks, "mean")
    torch.testing.assert_close(M.raw(model, task, masks, "mean"), expected, atol=1e-10, rtol=0)
    assert expected.abs().min() > 1e-4


def test_an_answer_before_any_difference_is_the_clean_one(model: Any) -> None:
    """Prompt 0 is read at its first token, where the runs are the same; the other at its last."""
    early = Task.from_tokens(
        **{name: getattr(M.task(), name) for name in ("clean", "corrupt", "answer", "wrong")},
        positions=[0, 8],
    )
    found = M.raw(model, early, M.drawn(Graph.of(model), 3))
    clean = M.plain(model, early, early.clean)
    torch.testing.assert_close(found[:, 0], clean[0].expand(3), atol=1e-10, rtol=0)
    assert (found[:, 1] - clean[1]).abs().min() > 1e-4
    assert clean.abs().min() > 1e-3


def test_circuits_by_object(model: Any) -> None:
    task, graph = M.task(), Graph.of(model)
    masks = M.drawn(graph, 2)
    made = [Circuit(graph, mask) for mask in masks]
    torch.testing.assert_close(M.raw(model, task, made), M.raw(model, task, masks))
    torch.testing.assert_close(M.raw(model, task, made[0]), M.raw(model, task, masks[:1]))
    spread = Circuit(graph, masks[0].expand(9, -1, -1))
    one = task[[0]]
    found = M.raw(model, one, [spread, made[1]])
    torch.testing.assert_close(found, M.raw(model, one, masks), atol=1e-10, rtol=0)
    assert (found[0] - found[1]).abs() > 1e-4


def test_functions_are_not_hidden_by_their_modules() -> None:
    import importlib

    for name, module in (("run", "_run.batch"), ("exact", "_score.exact"), ("acdc", "_search.acdc")):
        importlib.import_module(f"interp.circuits.{module}")
        assert callable(getattr(circuits, name))


@needs_hooked
@pytest.mark.parametrize("name", M.POST_NORM)
def test_a_norm_on_writes_is_refused_before_any_forward(name: str) -> None:
    model = build(name)
    model.add_hook("hook_embed", lambda *_, hook=None: pytest.fail("a forward was made"))
    with pytest.raises(
        ValueError, match=r"norms what attention and MLPs write.*interp\.patch takes this one"
    ):
        M.raw(model, M.task(), torch.zeros_like(Graph.of(model).allowed)[None])


def test_what_does_not_fit(model: Any) -> None:
    task, graph = M.task(), Graph.of(model)
    masks = M.drawn(graph, 1)
    refused = (
        ({"ablation": "median"}, r"ablation 'median' is not one of resample, gaussian, zero, mean"),
        (
            {"ablation": torch.zeros(3, 24)},
            r"constants are \[3, 24\]; this model has 16 writers",
        ),
        ({"ablation": torch.full((16, 24), torch.nan)}, r"with numbers that are not finite"),
        ({"ablation": "gaussian"}, r"noise has several draws"),
        ({"ablation": "zero", "direction": "denoise"}, r"zero ablation .* no denoising direction"),
        ({"direction": "up"}, r"direction 'up' is not one of"),
        ({"batch_size": 0}, r"batch_size is 0; it must be a whole number of at least 1"),
        ({"memory": 0}, r"memory is 0; it must be a number of bytes"),
        ({"circuits": []}, r"no circuit given"),
        (
            {"circuits": masks[..., 1:]},
            r"\[circuit, \(pos,\) 16 writers, 40 readers\]",
        ),
        ({"circuits": masks[0][None, None].repeat(1, 4, 1, 1)}, r"4 positions, the prompts have 9 tokens"),
        ({"circuits": Circuit(Graph(2, 4), Graph(2, 4).allowed)}, r"circuit of another model.*2 layers of 4"),
    )
    for given, message in refused:
        arguments = {"circuits": masks, **given}
        with pytest.raises(ValueError, match=message):
            circuits.run(model, task, **arguments)


def test_positions_need_prompts_of_one_length(model: Any) -> None:
    masks = M.drawn(Graph.of(model), 1, n_pos=9)
    with pytest.raises(ValueError, match=r"prompts differ in length \(4 to 9 tokens\)"):
        M.raw(model, M.uneven(), masks)
