"""Prompts written to files, as texts or as token ids, so that reading them gives the same tokens again.

A text that would be read as other tokens is refused. A file is written whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from interp.files import whole
from interp.tasks import _spans, vocabulary
from interp.tasks._files import KEYS, kind_of, several


def write(
    task: Any, path: Path, model: Any, *, tokens: bool | None = None, prepend_bos: bool | None = None
) -> Path:
    """Write the task's prompts. Refuses prompts whose text does not give the same tokens again."""
    kind = kind_of(path)
    tokens = not vocabulary.has_tokenizer(model) if tokens is None else tokens
    if tokens and kind != ".jsonl":
        raise ValueError(f"{path}: token ids are written as .jsonl only.")
    rows = list(_id_rows(task)) if tokens else [_row(task, i, model, prepend_bos) for i in range(len(task))]
    with whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, fieldnames=[key for key in KEYS if key in rows[0]])
            writer.writeheader()
            writer.writerows({key: _cell_of(key, cell) for key, cell in row.items()} for row in rows)
    return path


def _present(task: Any) -> list[tuple[str, Any]]:
    """The answers that the task has, by name: [prompt, read, k] each."""
    named = (("answer", task.targets), ("wrong", task.wrong_targets))
    return [(name, ids) for name, ids in named if bool((ids >= 0).any())]


def _id_rows(task: Any) -> Iterable[dict[str, Any]]:
    """Rows of token ids."""
    if not bool((task.targets >= 0).any()):
        raise ValueError("the task has no answers; a file of prompts needs them.")
    for i in range(len(task)):
        length = int(task.lengths[i])
        row: dict[str, Any] = {"clean": task.clean[i, :length].tolist()}
        if task.has_corrupt:
            row["corrupt"] = task.corrupt[i, :length].tolist()
        where = task.positions[i].tolist()
        for name, ids in _present(task):
            listed = [[token for token in read if token >= 0] for read in ids[i].tolist()]
            if task.reads is None:
                row[name] = listed[0] if len(listed[0]) > 1 else listed[0][0]
            else:
                row[name] = [
                    read if len(read) != 1 else read[0] for read, at in zip(listed, where) if at >= 0
                ]
        position = where if task.reads is None else [at for at in where if at >= 0]
        yield {**row, "template": task.template[i], "position": position, **_marked(task, i)}


def _row(task: Any, i: int, model: Any, prepend_bos: bool | None) -> dict[str, Any]:
    if task.reads is not None:
        raise ValueError(
            "a task of several read-out positions is written as token ids: to_file(model, path, tokens=True)."
        )
    length = int(task.lengths[i])
    sides = (
        (("clean", task.clean), ("corrupt", task.corrupt)) if task.has_corrupt else (("clean", task.clean),)
    )
    row: dict[str, Any] = {
        name: _text(model, i, name, tokens[i, :length].tolist(), prepend_bos) for name, tokens in sides
    }
    for name, ids in _present(task):
        texts = [_answer(model, i, name, token) for token in ids[i, 0].tolist() if token >= 0]
        row[name] = texts[0] if len(texts) == 1 else texts
    return {**row, "template": task.template[i], "position": int(task.positions[i]), **_marked(task, i)}


def _marked(task: Any, i: int) -> dict[str, Any]:
    """The spans of a prompt, if the task has any."""
    return {"spans": _spans.listed(task.spans, i)} if task.spans else {}


def _text(model: Any, i: int, name: str, ids: list[int], prepend_bos: bool | None) -> str:
    """A string that encodes to these ids: without the BOS where the model adds it, else with it."""
    for rest in (ids[1:], ids):
        text = vocabulary.decode(model, rest)
        if vocabulary.encode(model, text, prepend_bos) == ids:
            return text
    raise ValueError(
        f"prompt {i}: no text gives the tokens of {name} again with prepend_bos={prepend_bos} "
        f"({vocabulary.decode(model, ids)!r} does not). Try the other prepend_bos, or tokens=True."
    )


def _answer(model: Any, i: int, name: str, token: int) -> str:
    """A string that reads as this token."""
    text = vocabulary.decode(model, [token])
    for candidate in (text, f" {text}"):
        if vocabulary.continuation(model, candidate) == token:
            return candidate
    raise ValueError(f"prompt {i}: {name} is the token {token} ({text!r}), which no text gives again.")


def _cell_of(key: str, value: Any) -> Any:
    if key == "spans":
        return json.dumps(value, ensure_ascii=False)
    return _joined(value) if key in ("answer", "wrong") else value


def _joined(answer: str | Sequence[str]) -> str:
    """Answers in one cell: `a|b`, or a list in JSON where that would be read as something else."""
    texts = [answer] if isinstance(answer, str) else list(answer)
    plain = "|".join(texts)
    return plain if several(plain) == answer else json.dumps(texts, ensure_ascii=False)
