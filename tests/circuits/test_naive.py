"""The slow reference itself: against the plain forward, the corrupt forward, and patching of whole heads."""

from __future__ import annotations

import dataclasses
from typing import Any

import architectures
import naive
import pytest
import torch

import interp
from interp.tasks import Task

NAMES = [
    "LN-gelu_new-plain-serial-mha-learned",
    "RMS-silu-gated-parallel-gqa-rotary",
    "attn-only",
]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Any:
    return architectures.build(dict(architectures.grid())[request.param])


@pytest.fixture(scope="module")
def task() -> Task:
    clean, corrupt = architectures.tokens(first=1)
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[5, 6])


def test_the_number_of_edges() -> None:
    """Of GPT-2 small: 32,491."""

    @dataclasses.dataclass
    class Shape:
        n_layers: int = 12
        n_heads: int = 12
        n_key_value_heads: int | None = None
        attn_only: bool = False
        parallel_attn_mlp: bool = False

    @dataclasses.dataclass
    class Gpt2:
        cfg: Shape

    found = naive.edges(Gpt2(Shape()))
    assert len(found) == len(set(found)) == 32_491


def test_nothing_cut_is_the_plain_run(model: Any, task: Task) -> None:
    logits, _ = naive.forward(model, task.clean)
    torch.testing.assert_close(logits, model(task.clean), atol=1e-12, rtol=0)


def test_everything_resampled_is_the_corrupt_run(model: Any, task: Task) -> None:
    replaced = naive.replacements(model, task, "resample")
    logits, _ = naive.forward(model, task.clean, naive.edges(model), replaced)
    torch.testing.assert_close(logits, model(task.corrupt), atol=1e-10, rtol=0)
    assert (model(task.clean) - logits).abs().max() > 1e-2


def test_everything_at_zero_leaves_the_biases(model: Any, task: Task) -> None:
    """Every prompt then has the same logits at every position."""
    replaced = naive.replacements(model, task, "zero")
    logits, _ = naive.forward(model, task.clean, naive.edges(model), replaced)
    torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits), atol=1e-10, rtol=0)
    assert logits.abs().max() > 1e-2


@pytest.mark.parametrize("corruption", ["tokens", "zero", "mean"])
def test_all_edges_out_of_a_head_are_its_patch(model: Any, task: Task, corruption: str) -> None:
    """Cutting every edge out of a head does what patching its z does."""
    ablation = corruption.replace("tokens", "resample")
    result = interp.patch(model, task, "z", ablation=ablation, direction="noise", engine="reference")
    replaced, rows = naive.replacements(model, task, ablation), torch.arange(len(task))
    for layer, head in ((0, 1), (1, 3), (2, 0)):
        out = [edge for edge in naive.edges(model) if edge.startswith(f"a{layer}.h{head}->")]
        logits = naive.answer_logits(model, task, out, replaced)
        cut = logits[rows, task.answer] - logits[rows, task.wrong]
        effect = result["clean"].values - cut.numpy()
        assert effect == pytest.approx(result["value"].sel(layer=layer, head=head).values, abs=1e-9)
        assert abs(effect).max() > 1e-4


def test_the_switches_are_put_back(model: Any, task: Task) -> None:
    switches = ("use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")
    before = [getattr(model.cfg, name) for name in switches]
    naive.forward(model, task.clean)
    assert [getattr(model.cfg, name) for name in switches] == before == [False] * 3
