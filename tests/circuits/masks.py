"""Masks and tasks to run circuits with, and the same by the slow reference."""

from __future__ import annotations

from typing import Any

import architectures
import naive
import small
import torch
from torch import Tensor

from interp import circuits
from interp.circuits import Graph
from interp.tasks import Task

TINY = {"n_layers": 2, "n_heads": 2, "d_model": 12}
POST_NORM = ("sandwich-norm", "post-norm")


def task(n_prompts: int = 2, **options: Any) -> Task:
    """Prompts of one length that differ from position 1 on; answers at the last two positions."""
    clean, corrupt = architectures.tokens(first=1, n_prompts=n_prompts)
    answer = torch.arange(3, 3 + n_prompts)
    positions = torch.full((n_prompts,), clean.shape[1] - 1) - torch.arange(n_prompts) % 2
    return Task.from_tokens(
        clean=clean, corrupt=corrupt, answer=answer, wrong=answer + n_prompts, positions=positions, **options
    )


def uneven(**options: Any) -> Task:
    """Four prompts of 4 to 9 tokens, padded."""
    clean, corrupt = architectures.tokens(first=0, n_prompts=4, seed=5)
    lengths = (9, 4, 6, 7)
    rows = [[x[i, :n].tolist() for i, n in enumerate(lengths)] for x in (clean, corrupt)]
    return Task.from_tokens(
        clean=rows[0], corrupt=rows[1], answer=[3, 4, 5, 6], wrong=[7, 8, 9, 10], **options
    )


def tiny() -> Any:
    """A small model, 46 edges where this release has HookedTransformer."""
    return architectures.build(TINY) if architectures.has_hooked_transformer() else small.model()


def drawn(graph: Graph, count: int, seed: int = 0, n_pos: int = 0, least: float = 0.05) -> Tensor:
    """Random masks from almost empty to almost full: [circuit, (pos,) writer, reader]."""
    generator = torch.Generator().manual_seed(seed)
    positions = (n_pos,) if n_pos else ()
    keep = torch.linspace(least, 0.98, count).view(-1, *(1 for _ in positions), 1, 1)
    return (torch.rand(count, *positions, *graph.allowed.shape, generator=generator) < keep) & graph.allowed


def by_hooks(model: Any, of: Task, masks: Tensor, ablation: str) -> Tensor:
    """LogitDiff [circuit, prompt] of masks without positions: one forward with hooks for each."""
    graph, rows = Graph.of(model), torch.arange(len(of))
    replaced = naive.replacements(model, of, ablation)
    found = []
    for mask in masks:
        cut = [graph.name(*edge) for edge in (graph.allowed & ~mask).nonzero().tolist()]
        logits = naive.answer_logits(model, of, cut, replaced)
        found.append(logits[rows, of.answer] - logits[rows, of.wrong])
    return torch.stack(found)


def plain(model: Any, of: Task, tokens: Tensor) -> Tensor:
    """LogitDiff of an ordinary forward: [prompt]."""
    with torch.no_grad():
        logits = model(tokens)[torch.arange(len(of)), of.positions]
    return (logits.gather(1, of.answers) - logits.gather(1, of.wrongs))[:, 0]


def raw(model: Any, of: Task, what: Any, ablation: Any = "resample", **options: Any) -> Tensor:
    """The raw metric of `circuits.run`: [circuit, prompt]."""
    found = circuits.run(model, of, what, ablation=ablation, progress=False, **options)["raw"]
    return torch.from_numpy(found.transpose("circuit", "prompt").values.copy())
