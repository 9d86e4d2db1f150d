"""What must hold of a task, each mistake with its own message: by itself, and on a model (`fit_problems`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.tasks import vocabulary

TENSORS = ("clean", "corrupt", "answer", "wrong", "positions", "lengths")
_LISTED = 20


def require(problems: list[str]) -> None:
    """Raise the first problem, and list the others after it."""
    if not problems:
        return
    others = problems[1:_LISTED]
    more = f"\n{len(problems)} problems in all; the others:\n" + "\n".join(others) if others else ""
    raise ValueError(problems[0] + more + ("\n..." if len(problems) > _LISTED else ""))


def require_tensors(tensors: dict[str, Any]) -> None:
    """Integer tensors whose shapes agree, on one device."""
    for name, value in tensors.items():
        _require_integers(name, value)
    clean, corrupt = tensors["clean"], tensors["corrupt"]
    if clean.ndim != 2:
        raise ValueError(f"clean has shape {tuple(clean.shape)}; it must be (prompt, pos).")
    if corrupt.shape != clean.shape:
        raise ValueError(
            f"clean has shape {tuple(clean.shape)}, corrupt has {tuple(corrupt.shape)}. "
            "Patching compares positions; use prompts of equal token length."
        )
    if 0 in clean.shape:
        raise ValueError(f"clean has shape {tuple(clean.shape)}; a task needs a prompt and a token.")
    for name, ranks in (("answer", (1, 2)), ("wrong", (1, 2)), ("positions", (1,)), ("lengths", (1,))):
        _require_shape(name, tuple(tensors[name].shape), ranks, clean.shape[0])
    devices = {name: str(value.device) for name, value in tensors.items()}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the tensors of a task must be on one device, but {places}. Use .to(device).")


def _require_integers(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} is a {type(value).__name__}, not a tensor. Task.from_tokens takes lists too."
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(
            f"{name} has dtype {value.dtype}, but token ids and positions are integers: use .long()."
        )


def _require_shape(name: str, shape: tuple[int, ...], ranks: tuple[int, ...], prompts: int) -> None:
    if len(shape) not in ranks or shape[0] != prompts or 0 in shape:
        wanted = f"({prompts},)" + (f" or ({prompts}, k)" if 2 in ranks else "")
        raise ValueError(f"{name} has shape {shape}; for {prompts} prompts it must be {wanted}.")


def require_names(
    template: tuple[str, ...], labels: tuple[tuple[str, ...], ...] | None, prompts: int, pos: int
) -> None:
    """One cluster per prompt, one label per token."""
    if len(template) != prompts:
        raise ValueError(
            f"template has {len(template)} entries, but there are {prompts} prompts. "
            "Give the cluster of each prompt."
        )
    if labels is not None and [len(row) for row in labels] != [pos] * prompts:
        raise ValueError(
            f"labels must be {prompts} rows of {pos} strings, one per token (padding is ''); "
            f"got {len(labels)} rows of {sorted({len(row) for row in labels})}."
        )


def row_problems(task: Any) -> list[str]:
    """Everything wrong with single prompts, in order of kind."""
    found = length_problems(task.lengths, task.clean.shape[1], task.metric.reads_positions)
    found += position_problems(task.positions, task.lengths)
    found += token_problems(task.clean, task.corrupt)
    if task.has_corrupt:
        found += difference_problems(task.clean, task.corrupt, task.lengths)
    return found + answer_problems(task.answers, task.wrongs)


def length_problems(lengths: Int[Tensor, "prompt"], width: int, reads_positions: str) -> list[str]:
    """1 ≤ length ≤ number of positions; at least 2 for a metric of all positions."""
    least = 2 if reads_positions == "all" else 1
    bad = _where((lengths < least) | (lengths > width))
    return [
        f"prompt {i}: its length is {int(lengths[i])}; it must be from {least} to {width} (the positions)"
        + ("; a metric that reads all positions needs a next token to predict." if least == 2 else ".")
        for i in bad
    ]


def position_problems(positions: Int[Tensor, "prompt"], lengths: Int[Tensor, "prompt"]) -> list[str]:
    """0 ≤ position < length."""
    return [
        f"prompt {i}: the metric's position is {int(positions[i])}, but the prompt has {int(lengths[i])} "
        f"tokens; positions count from 0 to {int(lengths[i]) - 1}."
        for i in _where((positions < 0) | (positions >= lengths))
    ]


def token_problems(clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]) -> list[str]:
    """No negative ids among the tokens."""
    return [
        f"prompt {i}: {name} has the token id {int(tokens[i].min())}; ids are 0 or more. "
        "Pad with a token of the vocabulary, and give lengths."
        for name, tokens in (("clean", clean), ("corrupt", corrupt))
        for i in _where((tokens < 0).any(-1))
    ]


def difference_problems(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"], lengths: Int[Tensor, "prompt"]
) -> list[str]:
    """Clean and corrupt differ, and only inside the prompt."""
    inside = torch.arange(clean.shape[1], device=clean.device) < lengths.unsqueeze(-1)
    differ = clean != corrupt
    same = [
        f"prompt {i}: clean and corrupt are the same {int(lengths[i])} tokens; patching would find nothing. "
        "Change a token, or pass corrupt=None for a corruption that needs no second prompt."
        for i in _where(~(differ & inside).any(-1))
    ]
    return same + [
        f"prompt {i}: clean and corrupt differ in the padding, after its {int(lengths[i])} tokens. "
        "Pad both with the same token, or correct lengths."
        for i in _where((differ & ~inside).any(-1))
    ]


def answer_problems(answers: Int[Tensor, "prompt k"], wrongs: Int[Tensor, "prompt j"]) -> list[str]:
    """Each prompt has an answer and a wrong answer, and they share no token."""
    found = []
    for name, ids in (("answer", answers), ("wrong", wrongs)):
        found += [f"prompt {i}: {name} is empty; give at least one token." for i in _where((ids < 0).all(-1))]
        found += [
            f"prompt {i}: {name} has the token id {int(ids[i].min())}; ids are 0 or more, and -1 is padding."
            for i in _where((ids < -1).any(-1))
        ]
    shared = (answers.unsqueeze(-1) == wrongs.unsqueeze(-2)) & (answers >= 0).unsqueeze(-1)  # (prompt, k, j)
    return found + [
        f"prompt {i}: token {int(answers[i][shared[i].any(-1)][0])} is both an answer and a wrong answer; "
        "the metric would compare it with itself."
        for i in _where(shared.flatten(1).any(-1))
    ]


def _where(flags: Tensor) -> Iterable[int]:
    return flags.nonzero().flatten().tolist()


def fit_problems(task: Any, model: Any) -> list[str]:
    """Every way in which the task does not fit the model."""
    found = _device_problems(task, model) + _context_problems(task, model)
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


def _device_problems(task: Any, model: Any) -> list[str]:
    where = vocabulary.device(model)
    if task.clean.device == where:
        return []
    return [f"the task is on {task.clean.device}, the model on {where}. Move one of them."]


def _context_problems(task: Any, model: Any) -> list[str]:
    limit, width = vocabulary.context(model), task.clean.shape[1]
    if limit is None or width <= limit:
        return []
    return [
        f"the prompts have {width} positions, but the model's context is {limit} tokens. Use shorter prompts."
    ]
