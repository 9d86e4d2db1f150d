"""Edge attribution the plain way: copies of the stream for every head, and autograd down to them.

One prompt at a time, in HookedTransformer's own split mode. The oracle of `score_edges(method="eap")`.
"""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import torch
from torch import Tensor

from interp.circuits import Graph
from interp.tasks import Task


def scores(
    model: Any, task: Task, ablation: str = "resample", starts: list[list[Tensor]] | None = None
) -> np.ndarray:
    """(what u writes − its replacement) · d logit difference / d what v sees: [prompt, writer, reader].

    starts: by prompt, inputs at which slopes are taken and averaged; by default the clean prompt's own.
    """
    graph = Graph.of(model)
    replaced = naive.replacements(model, task, ablation)
    out = np.full((len(task), len(graph.writers), len(graph.readers)), np.nan)
    for prompt in range(len(task)):
        one = task[[prompt]]
        now = naive.forward(model, one.clean)[1]
        points = [None] if starts is None else starts[prompt]
        every = [_slopes(model, one, point) for point in points]
        slopes = {reader: sum(each[reader] for each in every) / len(every) for reader in every[0]}
        for edge in naive.edges(model):
            writer, reader = edge.split("->")
            gap = now[writer][0] - replaced[writer][prompt]
            out[prompt][graph.edge(edge)] = float((gap * slopes[reader][0]).sum())
    return out


def _slopes(model: Any, task: Task, start: Tensor | None = None) -> dict[str, Tensor]:
    """Slope of the logit difference in what every reader sees: [1, pos, d_model].

    start: the input instead.
    """
    kept: dict[str, Tensor] = {}
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    ends = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")

    def keep(tensor: Tensor, hook: Any) -> None:
        kept[hook.name] = tensor

    hooks = [(lambda name: name.endswith(ends) or name == last, keep)]
    if start is not None:
        hooks.insert(0, (lambda name: name == "blocks.0.hook_resid_pre", lambda tensor, hook: start))
    with naive._split(model), torch.enable_grad():
        logits = model.run_with_hooks(task.clean, fwd_hooks=hooks)[0, task.positions[0]]
        value = logits[task.answer[0]] - logits[task.wrong[0]]
        found = torch.autograd.grad(value, list(kept.values()))
    out = {}
    for name, slope in zip(kept, found):
        kind, layer = name.rsplit(".", 1)[-1], name.split(".")[1]
        if slope.ndim == 4:  # [1, pos, head, d_model]
            out |= {f"a{layer}.h{head}<{kind[5]}>": slope[:, :, head] for head in range(slope.shape[2])}
        else:
            out["logits" if kind == "hook_resid_post" else f"m{layer}"] = slope
    return out
