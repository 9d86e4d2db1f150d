"""Does a task fit a model: ids inside the vocabulary, prompts inside the context, one BOS or none."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from interp.tasks import vocabulary


def problems(task: Any, model: Any) -> list[str]:
    """Every way in which the task does not fit the model."""
    found = _device(task, model) + _context(task, model)
    for name, ids, count in (
        ("clean", task.clean, vocabulary.size(model)),
        ("corrupt", task.corrupt, vocabulary.size(model)),
        ("answer", task.answers, vocabulary.output_size(model)),
        ("wrong", task.wrongs, vocabulary.output_size(model)),
    ):
        found += vocabulary_problems(name, ids, count)
    token = vocabulary.bos(model)
    return found if token is None else found + bos_problems(task.clean, task.corrupt, task.lengths, token)


def vocabulary_problems(name: str, ids: Int[Tensor, "prompt k"], count: int) -> list[str]:
    """Every id below the vocabulary's size."""
    return [
        f"prompt {i}: {name} has the token id {int(ids[i].max())}, but the model has {count} tokens. "
        "Use this model's own tokenizer."
        for i in (ids >= count).any(-1).nonzero().flatten().tolist()
    ]


def bos_problems(
    clean: Int[Tensor, "prompt pos"],
    corrupt: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"],
    token: int,
) -> list[str]:
    """Both prompts of a pair begin with BOS or neither, and no prompt begins with two."""
    found = []
    for i in (clean[:, 0].eq(token) != corrupt[:, 0].eq(token)).nonzero().flatten().tolist():
        has, lacks = ("clean", "corrupt") if int(clean[i, 0]) == token else ("corrupt", "clean")
        found.append(
            f"prompt {i}: {has} begins with the BOS token ({token}), {lacks} does not. "
            "Make both with the same prepend_bos."
        )
    for name, tokens in (("clean", clean), ("corrupt", corrupt)):
        doubled = tokens[:, :2].eq(token).all(-1) & (lengths > 1)
        found += [
            f"prompt {i}: {name} begins with two BOS tokens ({token}). "
            "Leave it out of the text, or pass prepend_bos=False."
            for i in doubled.nonzero().flatten().tolist()
        ]
    return found


def _device(task: Any, model: Any) -> list[str]:
    where = vocabulary.device(model)
    if task.clean.device == where:
        return []
    return [f"the task is on {task.clean.device}, the model on {where}. Move one of them."]


def _context(task: Any, model: Any) -> list[str]:
    limit, width = vocabulary.context(model), task.clean.shape[1]
    if limit is None or width <= limit:
        return []
    return [
        f"the prompts have {width} positions, but the model's context is {limit} tokens. Use shorter prompts."
    ]
