"""The same numbers as TransformerLens's direct path patching: exactly as in 4.3, linear as in 3.9."""

from __future__ import annotations

from typing import Any

import architectures
import numpy as np
import pytest
import small
import torch

import interp
from interp.tasks import Task

BEFORE_4 = architectures.has_hooked_transformer()


def metric_of(task: Task) -> Any:
    rows = torch.arange(len(task))
    return lambda logits: (logits[rows, -1, task.answer] - logits[rows, -1, task.wrong]).mean()


def peer(function: Any, model: Any, task: Task, part: str, layer: int, head: int) -> np.ndarray:
    """Raw metrics by receiving layer and head; rows up to the sender's layer are placeholders."""
    with torch.inference_mode():
        clean, corrupt = (model.run_with_cache(tokens)[1] for tokens in (task.clean, task.corrupt))
        found = function(
            model, task.corrupt, clean, corrupt, metric_of(task), layer, head, component=part, verbose=False
        )
    return found.double().numpy()[layer + 1 :]


def ours(model: Any, task: Task, part: str, layer: int, head: int, **options: Any) -> np.ndarray:
    n = model.cfg.n_heads
    names = [f"L{at}H{h}.{part}" for at in range(layer + 1, model.cfg.n_layers) for h in range(n)]
    found = interp.path_patch(
        model, task, [f"L{layer}H{head}"], names, freeze="all", progress=False, **options
    )
    raw = found["value"] + found["corrupt"]
    return raw.mean("prompt").values.reshape(-1, n)


def task_of() -> Task:
    clean, corrupt = architectures.tokens(2)
    return Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[15, 16])


@pytest.mark.skipif(BEFORE_4, reason="the exact one came with TransformerLens 4")
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_exact_direct_paths(part: str) -> None:
    from transformer_lens.patching import get_act_patch_direct_path

    model, task = small.bridge("gpt2"), task_of()
    theirs = peer(get_act_patch_direct_path, model, task, part, 0, 1)
    np.testing.assert_allclose(ours(model, task, part, 0, 1), theirs, atol=1e-6)  # theirs are float32
    with torch.inference_mode():
        assert np.abs(theirs - float(metric_of(task)(model(task.corrupt)))).max() > 1e-3


@pytest.mark.skipif(not BEFORE_4, reason="the linear one went with TransformerLens 4")
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_linear_direct_paths_on_folded_weights(part: str) -> None:
    from transformer_lens.tools.analysis.direct_path_patching import get_act_patch_direct_path

    model, task = architectures.build({}), task_of()
    model.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=False)
    model.eval()  # the folded norms are new modules
    theirs = peer(get_act_patch_direct_path, model, task, part, 0, 1)
    found = ours(model, task, part, 0, 1, norm="frozen")
    np.testing.assert_allclose(found, theirs, atol=1e-6)  # theirs are float32
    assert np.abs(ours(model, task, part, 0, 1) - theirs).max() > 1e-4  # and the exact ones are others
    with torch.inference_mode():
        assert np.abs(theirs - float(metric_of(task)(model(task.corrupt)))).max() > 1e-3
