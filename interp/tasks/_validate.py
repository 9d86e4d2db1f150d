"""What must hold of a task, each mistake with its own message: by itself, and on a model (`fit_problems`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.tasks import _spans, vocabulary
from interp.tasks.metrics import Metric

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
    _require_shapes(tensors, clean.shape[0])
    devices = {name: str(value.device) for name, value in tensors.items()}
    if len(set(devices.values())) > 1:
        places = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"the tensors of a task must be on one device, but {places}. Use .to(device).")


def _require_shapes(tensors: dict[str, Tensor], prompts: int) -> None:
    """(prompt,) or (prompt, k) for answers; (prompt, read) or (prompt, read, k) with such positions."""
    positions = tensors["positions"]
    several = positions.ndim == 2
    _require_shape("lengths", tensors["lengths"], [(prompts,)])
    _require_shape("positions", positions, [(prompts, "read")] if several else [(prompts,)])
    reads = positions.shape[1] if several else None
    wanted = [(prompts, reads), (prompts, reads, "k")] if several else [(prompts,), (prompts, "k")]
    for name in ("answer", "wrong"):
        _require_shape(name, tensors[name], wanted)


def _require_integers(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} is a {type(value).__name__}, not a tensor. Task.from_tokens takes lists too."
        )
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(
            f"{name} has dtype {value.dtype}, but token ids and positions are integers: use .long()."
        )


def _require_shape(name: str, value: Tensor, shapes: list[tuple[Any, ...]]) -> None:
    """One of the shapes, in which a name stands for any size of 1 or more."""
    shape = tuple(value.shape)
    for wanted in shapes:
        fits = len(shape) == len(wanted) and 0 not in shape
        if fits and all(isinstance(size, str) or size == have for size, have in zip(wanted, shape)):
            return
    listed = " or ".join(f"({', '.join(map(str, w))}{',' if len(w) == 1 else ''})" for w in shapes)
    raise ValueError(f"{name} has shape {shape}; for {shapes[0][0]} prompts it must be {listed}.")


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
    problems = length_problems(task.lengths, task.clean.shape[1], task.metric.reads_positions)
    problems += position_problems(task.positions, task.lengths)
    problems += token_problems(task.clean, task.corrupt)
    if task.has_corrupt:
        problems += padding_problems(task.clean, task.corrupt, task.lengths)
    return problems + _spans.problems(task.spans, task.lengths) + answer_problems(task)


def length_problems(lengths: Int[Tensor, "prompt"], width: int, reads_positions: str) -> list[str]:
    """1 ≤ length ≤ number of positions; at least 2 for a metric of all positions."""
    least = 2 if reads_positions == "all" else 1
    bad = _where((lengths < least) | (lengths > width))
    return [
        f"prompt {i}: its length is {int(lengths[i])}; it must be from {least} to {width} (the positions)"
        + ("; a metric that reads all positions needs a next token to predict." if least == 2 else ".")
        for i in bad
    ]


def position_problems(positions: Tensor, lengths: Int[Tensor, "prompt"]) -> list[str]:
    """0 ≤ position < length, for each read-out; −1 pads rows with fewer, the first of which is real."""
    rows = positions if positions.ndim == 2 else positions[:, None]
    bad = (rows >= lengths[:, None]) | (rows < (-1 if positions.ndim == 2 else 0))
    bad[:, 0] |= rows[:, 0] < 0
    problems = []
    for i in _where(bad.any(-1)):
        wrong = int(rows[i][bad[i]][0])
        problems.append(
            f"prompt {i}: the metric's position is {wrong}, but the prompt has {int(lengths[i])} "
            f"tokens; positions count from 0 to {int(lengths[i]) - 1}."
        )
    return problems


def token_problems(clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]) -> list[str]:
    """No negative ids among the tokens."""
    return [
        f"prompt {i}: {name} has the token id {int(tokens[i].min())}; ids are 0 or more. "
        "Pad with a token of the vocabulary, and give lengths."
        for name, tokens in (("clean", clean), ("corrupt", corrupt))
        for i in _where((tokens < 0).any(-1))
    ]


def _inside(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(-1)


def same_problems(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"], lengths: Int[Tensor, "prompt"]
) -> list[str]:
    """Clean and corrupt differ: what exchanging the two prompts of a pair needs."""
    differ = (clean != corrupt) & _inside(clean, lengths)
    return [
        f"prompt {i}: clean and corrupt are the same {int(lengths[i])} tokens; patching would find nothing. "
        "Change a token, or use an ablation that needs no second prompt: 'zero' or 'mean'."
        for i in _where(~differ.any(-1))
    ]


def padding_problems(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"], lengths: Int[Tensor, "prompt"]
) -> list[str]:
    """Clean and corrupt differ only inside the prompt."""
    outside = (clean != corrupt) & ~_inside(clean, lengths)
    return [
        f"prompt {i}: clean and corrupt differ in the padding, after its {int(lengths[i])} tokens. "
        "Pad both with the same token, or correct lengths."
        for i in _where(outside.any(-1))
    ]


def answer_problems(task: Any) -> list[str]:
    """Answers where the metric reads them, ids of 0 or more, none on both sides. [prompt, read, k] each."""
    answers, wrongs = task.targets, task.wrong_targets
    real = (task.positions if task.positions.ndim == 2 else task.positions[:, None]) >= 0
    problems = []
    for name, ids, needed in (
        ("answer", answers, task.metric.reads_answer),
        ("wrong", wrongs, task.metric.reads_wrong),
    ):
        if needed:
            empty = ((ids < 0).all(-1) & real).any(-1)
            problems += [f"prompt {i}: {name} is empty; give at least one token." for i in _where(empty)]
        problems += [
            f"prompt {i}: {name} has the token id {int(ids[i].min())}; ids are 0 or more, and -1 is padding."
            for i in _where((ids < -1).flatten(1).any(-1))
        ]
    shared = (answers.unsqueeze(-1) == wrongs.unsqueeze(-2)) & (answers >= 0).unsqueeze(-1)
    return problems + [
        f"prompt {i}: token {int(answers[i][shared[i].any(-1)][0])} is both an answer and a wrong answer; "
        "the metric would compare it with itself."
        for i in _where(shared.flatten(1).any(-1))
    ]


def fit_problems(task: Any, model: Any) -> list[str]:
    """Every way in which the task does not fit the model: device, context, vocabularies, padding, BOS."""
    problems = _device_problems(task, model) + _context_problems(task, model)
    prompts = (
        (("clean", task.clean), ("corrupt", task.corrupt)) if task.has_corrupt else (("clean", task.clean),)
    )
    for name, ids in prompts:
        problems += vocabulary_problems(name, ids, vocabulary.size(model))
    columns = vocabulary.output_size(model)
    does = "has" if columns == vocabulary.size(model) else "gives logits for"
    for name, ids in (("answer", task.answers), ("wrong", task.wrongs)):
        problems += vocabulary_problems(name, ids, columns, does)
    problems += task.metric.problems(vocabulary.size(model), columns)
    problems += pad_problems(task, model)
    token = vocabulary.bos(model)
    return problems if token is None else problems + bos_problems(*prompts, lengths=task.lengths, token=token)


def require_vocabulary(task: Any, model: Any) -> None:
    """Ids inside the vocabularies, and no padding that is read as text; the first problem is raised."""
    sides = (
        ("token", vocabulary.size(model), (task.clean, task.corrupt)),
        ("answer", vocabulary.output_size(model), (task.answers, task.wrongs)),
    )
    for what, size, tensors in sides:
        if (highest := int(max(ids.max() for ids in tensors))) >= size:
            raise ValueError(
                f"{what} id {highest} is outside the model's vocabulary of {size}. "
                "The task was built for another tokenizer."
            )
    require(pad_problems(task, model))


def require_metrics(task: Any, model: Any, metrics: Iterable[Metric]) -> None:
    """Each metric's answers, and what it needs of the model; the first problem is raised."""
    for metric in metrics:
        require(metric.problems(vocabulary.size(model), vocabulary.output_size(model)))
        for name, ids in (("answer", task.answers), ("wrong", task.wrongs)):
            if getattr(metric, f"reads_{name}") and bool((ids < 0).all(-1).any()):
                raise ValueError(
                    f"the metric {metric.name!r} reads {name}, which the task {task.name!r} does not have. "
                    f"Give {name}= when building it, or use another metric."
                )


def vocabulary_problems(name: str, ids: Int[Tensor, "prompt k"], count: int, does: str = "has") -> list[str]:
    """Every id below the vocabulary's size: the input one for prompts, the output one for answers."""
    return [
        f"prompt {i}: {name} has the token id {int(ids[i].max())}, but the model {does} {count} tokens. "
        "Use this model's own tokenizer."
        for i in (ids >= count).any(-1).nonzero().flatten().tolist()
    ]


def pad_problems(task: Any, model: Any) -> list[str]:
    """No padding at the beginning of a prompt, which a model would read, and no answer read after padding.

    At the beginning it is the padding token twice, or before BOS (once it can be a token of the text); where
    BOS is the padding token, and at the end, in some prompts and not in all, none of them shorter. A single
    one at the end is padding where another prompt ends in several and the token stands nowhere else.
    """
    pad, bos = getattr(getattr(model, "tokenizer", None), "pad_token_id", None), vocabulary.bos(model)
    if pad is None:
        return []
    tokens, lengths = task.clean, task.lengths
    second = tokens[:, 1] if tokens.shape[1] > 1 else torch.full_like(lengths, -1)
    follows = (second == pad) | (second == (-2 if bos is None else bos))
    leading = (tokens[:, 0] == pad) & follows & (lengths > 1)
    if pad == bos:
        leading = _some(leading, lengths)
    last = task.positions.reshape(len(tokens), -1).amax(1)
    run = (tokens == pad).flip(1).long().cumprod(1).sum(1)  # of padding, at the end of each row
    inside = (tokens == pad).sum(1) - run - (tokens[:, 0] == pad).long()
    # One alone may be a token of the text, drawn at random; beside a row that ends in several it is padding.
    enough = 1 if bool((inside <= 0).all()) and int(run.max()) > 1 else 2
    trailing = _some((run >= enough) & (last == lengths - 1), lengths)
    instead = "Give mask= to Task.from_tokens, or pad on the right and give lengths=."
    return [
        f"prompt {i}: it begins with the padding token ({pad}), which the model would read as text. {instead}"
        for i in _where(leading)
    ] + [
        f"prompt {i}: its answer is read after its last token, the padding token ({pad}). {instead}"
        for i in _where(trailing)
    ]


def _some(rows: Bool[Tensor, "prompt"], lengths: Int[Tensor, "prompt"]) -> Bool[Tensor, "prompt"]:
    """The rows, or none where it is all of them or where their lengths are known."""
    known = bool((lengths != lengths[0]).any())
    return torch.zeros_like(rows) if known or bool(rows.all()) else rows


def bos_problems(
    *prompts: tuple[str, Int[Tensor, "prompt pos"]], lengths: Int[Tensor, "prompt"], token: int
) -> list[str]:
    """Both prompts of a pair begin with BOS or neither, and no prompt begins with two."""
    clean, corrupt = prompts[0][1], prompts[-1][1]
    problems = []
    for i in _where(clean[:, 0].eq(token) != corrupt[:, 0].eq(token)):
        has, lacks = ("clean", "corrupt") if int(clean[i, 0]) == token else ("corrupt", "clean")
        problems.append(
            f"prompt {i}: {has} begins with the BOS token ({token}), {lacks} does not. "
            "Make both with the same prepend_bos."
        )
    for name, tokens in prompts:
        doubled = tokens[:, :2].eq(token).all(-1) & (lengths > 1)
        problems += [
            f"prompt {i}: {name} begins with two BOS tokens ({token}). "
            "Leave it out of the text, or pass prepend_bos=False."
            for i in _where(doubled)
        ]
    return problems


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


def _where(flags: Tensor) -> Iterable[int]:
    return flags.nonzero().flatten().tolist()
