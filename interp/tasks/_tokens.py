"""Rows of token ids as rectangular tensors: padding of prompts, answers and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp._arguments import shown
from interp.tasks import _spans
from interp.tasks._validate import require_tensors


class Rows(NamedTuple):
    """Padded prompts."""

    clean: Tensor
    corrupt: Tensor
    lengths: Tensor


def fields(
    clean: Any,
    corrupt: Any,
    ids: Mapping[str, Any],
    metric: Any,
    *,
    positions: Any,
    lengths: Any,
    mask: Any,
    labels: Any,
    spans: Mapping[str, Any] | None,
    pad: int,
) -> dict[str, Any]:
    """The tensors of a task, real tokens first, with labels and spans, from rows of ids as a user has them.

    ids: answers and wrong answers by name, which may be left out where the metric reads none.
    """
    require_rows("clean", clean)
    if corrupt is not None:
        require_rows("corrupt", corrupt)
    named = row_spans(clean, mask, lengths, spans)
    if mask is not None:
        if lengths is not None:
            raise ValueError("both mask= and lengths= say which tokens are real. Give one of the two.")
        clean, corrupt, lengths, positions, first = unpad(clean, corrupt, mask, positions, pad)
        labels = unpad_labels(labels, first, lengths)
    elif lengths is None:
        require_unpadded(clean, corrupt, pad)
    rows = pad_pairs(clean, corrupt, lengths, pad)
    device = rows.clean.device
    where = rows.lengths - 1 if positions is None else pad_ids("positions", positions, device)
    tensors = {"clean": rows.clean, "corrupt": rows.corrupt, "positions": where, "lengths": rows.lengths}
    tensors |= {name: answers(each, name, metric, where, device) for name, each in ids.items()}
    require_tensors(tensors)
    masks = {name: marks.to(device) for name, marks in named.items()}
    return {
        **tensors,
        "labels": None if labels is None else pad_labels(labels, rows.clean.shape[1]),
        "spans": masks,
    }


def first_difference(
    clean: Int[Tensor, "prompt pos"], corrupt: Int[Tensor, "prompt pos"]
) -> Int[Tensor, "prompt"]:
    """First position at which the rows differ, or the number of positions."""
    differ = clean != corrupt
    return torch.where(differ.any(-1), differ.to(torch.int8).argmax(-1), clean.shape[1])


def as_tensor(values: Tensor | Sequence[Any], device: torch.device | None = None) -> Tensor:
    """A tensor as it is; a list of numbers as a tensor on the device."""
    return values if isinstance(values, Tensor) else torch.tensor(list(values), device=device)


def pad_pairs(
    clean: Tensor | Sequence[Any],
    corrupt: Tensor | Sequence[Any] | None,
    lengths: Tensor | Sequence[Any] | None,
    pad: int,
) -> Rows:
    """The prompts of every pair in two tensors of one shape; `corrupt=None` gives the clean tensor itself."""
    if corrupt is not None:
        require_equal_lengths(clean, corrupt)
    left = pad_rows(clean, pad)
    right = left if corrupt is None else pad_rows(corrupt, pad, left.device)
    if corrupt is clean:
        right = left.clone()  # the same rows twice are a mistake, not a task without corrupt prompts
    if lengths is None:
        lengths = [len(row) for row in clean]
    return Rows(left, right, as_tensor(lengths, left.device))


def require_rows(name: str, rows: Tensor | Sequence[Any]) -> None:
    """Prompts are rows of ids: (prompt, pos), or a list of lists."""
    if isinstance(rows, Tensor) and rows.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}; it must be (prompt, pos).")
    listed = isinstance(rows, Tensor) or (isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)))
    if not listed and not (hasattr(rows, "__array__") and getattr(rows, "ndim", 0) == 2):
        raise ValueError(f"{name} is {shown(rows)}; give rows of token ids, one per prompt.")
    if not len(rows):
        raise ValueError(f"{name} has 0 prompts; a task needs at least one.")
    if not isinstance(rows, Tensor) and any(isinstance(row, str) for row in rows):
        raise ValueError(f"{name} is {shown(rows)}; give token ids, or texts to Task.from_prompts.")
    if any(isinstance(row, int) for row in rows):
        raise ValueError(f"{name} is a list of numbers; give a list of lists, one per prompt.")
    if not isinstance(rows, Tensor) and not all(hasattr(row, "__len__") for row in rows):
        raise ValueError(f"{name} is {shown(rows)}; give rows of token ids, one per prompt.")


def require_equal_lengths(clean: Tensor | Sequence[Any], corrupt: Tensor | Sequence[Any]) -> None:
    """Every clean prompt has as many tokens as its corrupt one."""
    if len(clean) != len(corrupt):
        raise ValueError(
            f"clean has {len(clean)} prompts, corrupt has {len(corrupt)}. "
            "Give one corrupt prompt per clean prompt."
        )
    sizes = [(i, len(a), len(b)) for i, (a, b) in enumerate(zip(clean, corrupt))]
    bad = [(i, a, b) for i, a, b in sizes if a != b]
    if not bad:
        return
    (i, a, b), more = bad[0], ""
    if len(bad) > 1:
        listed = ", ".join(f"{j} ({x} and {y})" for j, x, y in bad[:20])
        more = f" {len(bad)} pairs differ in length: prompts {listed}{', ...' if len(bad) > 20 else ''}."
    raise ValueError(
        f"prompt {i}: clean has {a} tokens, corrupt has {b}. Patching compares positions; "
        f"use prompts of equal token length.{more}"
    )


def pad_rows(rows: Tensor | Sequence[Any], pad: int, device: torch.device | None = None) -> Tensor:
    """Rows of ids as one tensor, padded on the right. A tensor stays as it is."""
    if isinstance(rows, Tensor):
        return rows
    width = max((len(row) for row in rows), default=0)
    return torch.tensor([[*_ids(row), *[pad] * (width - len(row))] for row in rows], device=device)


def pad_ids(name: str, values: Any, device: torch.device | None = None) -> Tensor:
    """Answers or positions as (prompt,), (prompt, k) or (prompt, read, k), −1 where a prompt has fewer."""
    if isinstance(values, Tensor):
        return values
    ids = _listed(values)
    if not isinstance(ids, list) or not all(isinstance(each, (int, list)) for each in ids):
        raise ValueError(f"{name} is {shown(values)}; give a whole number a prompt, or a list of them each.")
    if all(isinstance(each, int) for each in ids):
        return torch.tensor(ids, device=device)
    rows = [[each] if isinstance(each, int) else each for each in ids]
    if not any(isinstance(each, (list, tuple)) for row in rows for each in row):
        return pad_rows(rows, -1, device)
    rows = [[[each] if isinstance(each, int) else each for each in row] for row in rows]
    reads, k = max(map(len, rows)), max(len(each) for row in rows for each in row)
    whole = [
        [[*each, *[-1] * (k - len(each))] for each in [*row, *[[]] * (reads - len(row))]] for row in rows
    ]
    return torch.tensor(whole, device=device)


def _listed(values: Any) -> Any:
    """Ids in lists, of lists, tuples, iterators, arrays and tensors; anything else as it is."""
    if hasattr(values, "tolist"):
        return values.tolist()
    if isinstance(values, (str, bytes, Mapping, Set, type)) or not hasattr(values, "__iter__"):
        return values
    return [_listed(each) for each in values]


def real_tokens(mask: Any, shape: tuple[int, ...], what: str = "") -> Bool[Tensor, "prompt pos"]:
    """A user's mask of padded ids as marks: True where a token is real. On the mask's device.

    ValueError for another shape, anything but 0 and 1, a prompt without a token, and a gap inside of one.
    """
    marks = mask if isinstance(mask, Tensor) else torch.as_tensor(mask)
    if tuple(marks.shape) != tuple(shape):
        raise ValueError(
            f"{what}mask has shape {tuple(marks.shape)}, the prompts {tuple(shape)}. Give one mark for each "
            "token."
        )
    if not bool(((marks == 0) | (marks == 1)).all()):
        seen = ", ".join(f"{value:g}" for value in marks.unique()[:4].tolist())
        raise ValueError(
            f"{what}mask holds {seen}; give 1 where a token is real and 0 where it is padding. (Where 0 "
            "stands for a token, as in masks that are added to scores, give mask == 0.)"
        )
    real = marks.long()
    span = marks.shape[1] - real.flip(1).argmax(1) - real.argmax(1)
    bad = ((span != real.sum(1)) | (real.sum(1) == 0)).nonzero().flatten().tolist()
    if bad:
        fault = "a gap inside" if bool(real[bad[0]].any()) else "no real token"
        raise ValueError(
            f"{what}prompt {bad[0]}: its mask has {fault}. Pad on the left or on the right only."
        )
    return marks.bool()


def unpad(
    clean: Any, corrupt: Any, mask: Any, positions: Any, pad: int
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor]:
    """Clean and corrupt, real tokens first; lengths; positions from the first of them on; which that is."""
    rows = pad_rows(clean, pad)
    marks = real_tokens(mask, tuple(rows.shape)).to(rows.device)
    others = None if corrupt is None else pad_rows(corrupt, pad, rows.device)
    if others is not None:
        real_tokens(mask, tuple(others.shape))
    first, lengths = marks.long().argmax(1), marks.sum(1)
    order = (~marks).long().argsort(dim=1, stable=True)
    kept = torch.arange(marks.shape[1], device=marks.device) < lengths[:, None]
    moved = [
        None if side is None else torch.where(kept, side.gather(1, order), pad) for side in (rows, others)
    ]
    where = (
        None if positions is None else _shifted(pad_ids("positions", positions, marks.device), first, lengths)
    )
    return moved[0], moved[1], lengths, where, first  # type: ignore[return-value]


def _shifted(positions: Tensor, first: Tensor, lengths: Tensor) -> Tensor:
    """Read-out positions of padded ids, from the first real token on. ValueError for one in the padding."""
    several = positions.ndim == 2
    start, stop = (each[:, None] if several else each for each in (first, first + lengths))
    hidden = (positions >= 0) & ((positions < start) | (positions >= stop))
    if bool(hidden.any()):
        row = int((hidden.any(1) if several else hidden).nonzero()[0])
        at = positions[row][hidden[row]] if several else positions[row]
        raise ValueError(
            f"prompt {row}: the mask hides position {int(at.flatten()[0])}, at which the metric reads; its "
            f"tokens stand at {int(first[row])} to {int(first[row] + lengths[row]) - 1}."
        )
    return torch.where(positions < 0, positions, positions - start)


def unpad_spans(mask: Any, spans: Mapping[str, Any]) -> dict[str, Tensor]:
    """Named positions of ids as they were given, at the columns where `unpad` puts them."""
    marks = as_tensor(mask).bool().cpu()
    first = marks.long().argmax(1)
    stop = marks.shape[1] - marks.flip(1).long().argmax(1)
    order = (~marks).long().argsort(dim=1, stable=True)
    masks = _spans.Reader(first, stop, marks.shape[1]).masks(spans)
    return {name: (each.cpu() & marks).gather(1, order) for name, each in masks.items()}


def stacked(rows: Sequence[Tensor], fill: int) -> Tensor:
    """Tensors one below the other, filled up to the widest in every other dim."""
    shape = [max(each.shape[dim] for each in rows) for dim in range(1, rows[0].ndim)]
    out = rows[0].new_full((sum(len(each) for each in rows), *shape), fill)
    start = 0
    for each in rows:
        out[(slice(start, start + len(each)), *(slice(0, size) for size in each.shape[1:]))] = each
        start += len(each)
    return out


def _is_rows(rows: Any) -> bool:
    """Whether these are rows of ids of one width, 3 or more."""
    if isinstance(rows, Tensor):
        return rows.ndim == 2 and len(rows) > 0 and rows.shape[1] > 2
    if rows is None or not len(rows) or not all(hasattr(row, "__len__") for row in rows):
        return False
    return len({len(row) for row in rows}) == 1 and len(rows[0]) > 2


def require_unpadded(clean: Any, corrupt: Any, pad: int) -> None:
    """Refuse rows of one width that begin or end in several padding ids and do not say so."""
    for name, rows in (("clean", clean), ("corrupt", corrupt)):
        if not _is_rows(rows):
            continue
        ids = pad_rows(rows, pad)
        for end, part in (("begins", ids[:, :2]), ("ends", ids[:, -2:])):
            padded = (part == pad).all(1) & (ids != pad).any(1)
            if bool(padded.any()) and not bool(padded.all()):
                row = int(padded.nonzero()[0])
                raise ValueError(
                    f"prompt {row}: {name} {end} in tokens {pad}, as padding does, which a model would read "
                    "as text. Give mask= (true where a token is real), or lengths= for ids padded on the "
                    "right; lengths= also says that they are text."
                )


def pad_labels(labels: Sequence[Sequence[str]], width: int) -> tuple[tuple[str, ...], ...]:
    """Token strings by prompt and position, padded with ""."""
    return tuple((*row, *[""] * (width - len(row))) for row in labels)


def unpad_labels(
    labels: Sequence[Sequence[str]] | None, first: Tensor, lengths: Tensor
) -> Sequence[Sequence[str]] | None:
    """Labels of padded ids, those of real tokens alone."""
    if labels is None:
        return None
    stops = (first + lengths).tolist()
    return [row[start:stop] for row, start, stop in zip(labels, first.tolist(), stops)]


def relabel(
    known: Int[Tensor, "prompt pos"],
    labels: tuple[tuple[str, ...], ...],
    tokens: Int[Tensor, "prompt pos"],
    lengths: Int[Tensor, "prompt"],
) -> tuple[tuple[str, ...], ...]:
    """Labels of other tokens from labelled ones; an id never seen there becomes `#id`."""
    sizes = lengths.tolist()
    names = {
        token: label
        for row, texts, size in zip(known.tolist(), labels, sizes)
        for token, label in zip(row[:size], texts)
    }
    rows = (row[:size] for row, size in zip(tokens.tolist(), sizes))
    return pad_labels([[names.get(token, f"#{token}") for token in row] for row in rows], known.shape[1])


def _ids(row: Any) -> list[int]:
    return row.tolist() if isinstance(row, Tensor) else list(row)


def answers(
    ids: Tensor | Sequence[Any] | None, name: str, metric: Any, positions: Tensor, device: torch.device
) -> Tensor:
    """Answers as a tensor; −1 for none, where the metric reads none."""
    if ids is not None:
        return pad_ids(name, ids, device)
    if getattr(metric, f"reads_{name}"):
        raise ValueError(
            f"the metric {metric.name!r} reads {name}, which is not given. Give {name}= of each prompt."
        )
    return torch.full_like(positions, -1)


def row_spans(
    clean: Tensor | Sequence[Any], mask: Any, lengths: Any, spans: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """The spans of rows of ids, real tokens first."""
    if not spans:
        return {}
    if mask is not None:
        return unpad_spans(mask, spans)
    sizes = [len(row) for row in clean] if lengths is None else lengths
    stop = as_tensor(sizes).cpu()
    width = clean.shape[1] if isinstance(clean, Tensor) else max(len(row) for row in clean)
    return _spans.Reader(torch.zeros_like(stop), stop, width).masks(spans)
