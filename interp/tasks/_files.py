"""Files of prompts, JSONL or CSV.

One prompt pair a line, with the keys `clean`, `corrupt`, `answer`, `wrong` and, if wanted, `template` (the
cluster of the prompt) and `position` (index of the token whose logits predict the answer, BOS counted).
Several answers are a list in JSONL and `a|b` in CSV.

    {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from interp.tasks import vocabulary

REQUIRED = ("clean", "corrupt", "answer", "wrong")
OPTIONAL = ("template", "position")


def read(path: Path) -> dict[str, Any]:
    """The arguments of `Task.from_prompts` that the file gives."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a .jsonl or .csv file of prompts.")
    rows = _read_jsonl(path) if _kind(path) == ".jsonl" else _read_csv(path)
    if not rows:
        raise ValueError(f"{path} has no prompts. Each line gives {', '.join(REQUIRED)}.")
    for line, row in rows:
        _require_keys(path, line, row)
    fields: dict[str, Any] = {key: [row[key] for _, row in rows] for key in REQUIRED}
    if column := _optional(path, rows, "template"):
        fields["template"] = [str(value) for value in column]
    if column := _optional(path, rows, "position"):
        fields["positions"] = [_integer(path, line, value) for (line, _), value in zip(rows, column)]
    return fields


def write(task: Any, path: Path, model: Any, *, prepend_bos: bool | None = None) -> Path:
    """Write the task's prompts. Refuses prompts whose text does not give the same tokens again."""
    kind = _kind(path)
    rows = [_row(task, i, model, prepend_bos) for i in range(len(task))]
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, fieldnames=[*REQUIRED, *OPTIONAL])
            writer.writeheader()
            writer.writerows(
                {**row, "answer": _joined(row["answer"]), "wrong": _joined(row["wrong"])} for row in rows
            )
    return path


def _read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {line}: not JSON ({error.msg} at column {error.colno})."
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line}: a {type(row).__name__}; each line is an object in braces."
            )
        rows.append((line, row))
    return rows


def _read_csv(path: Path) -> list[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        rows = [(reader.line_num, row) for row in reader]
    for line, row in rows:
        if None in row:
            raise ValueError(
                f"{path}, line {line}: more fields than the {len(row) - 1} of the first line. "
                "Put texts that hold a comma in double quotes."
            )
    rows = [(line, {key: value for key, value in row.items() if value}) for line, row in rows]
    for _, row in rows:
        for key in ("answer", "wrong"):
            if "|" in row.get(key, ""):
                row[key] = row[key].split("|")
    return rows


def _require_keys(path: Path, line: int, row: dict[str, Any]) -> None:
    for key in REQUIRED:
        if key not in row:
            raise ValueError(
                f"{path}, line {line}: the key {key!r} is missing; it has {', '.join(row) or 'none'}. "
                f"Each line gives {', '.join(REQUIRED)}."
            )
    for key in ("clean", "corrupt"):
        if not isinstance(row[key], str):
            raise ValueError(
                f"{path}, line {line}: {key} is a {type(row[key]).__name__}; it must be a string."
            )
    for key in ("answer", "wrong"):
        values = row[key] if isinstance(row[key], list) else [row[key]]
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError(
                f"{path}, line {line}: {key} is {row[key]!r}; it must be a string or a list of strings."
            )


def _optional(path: Path, rows: list[tuple[int, dict[str, Any]]], key: str) -> list[Any]:
    """The column, or [] when no line has it; some lines having it is a mistake."""
    have = [line for line, row in rows if key in row]
    if have and len(have) < len(rows):
        lacking = next(line for line, row in rows if key not in row)
        raise ValueError(f"{path}, line {lacking}: the key {key!r} is missing, but line {have[0]} has it.")
    return [row[key] for _, row in rows] if have else []


def _integer(path: Path, line: int, value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{path}, line {line}: position is {value!r}; it must be a whole number.") from None


def _row(task: Any, i: int, model: Any, prepend_bos: bool | None) -> dict[str, Any]:
    length = int(task.lengths[i])
    row: dict[str, Any] = {
        name: _text(model, i, name, tokens[i, :length].tolist(), prepend_bos)
        for name, tokens in (("clean", task.clean), ("corrupt", task.corrupt))
    }
    for name, ids in (("answer", task.answers), ("wrong", task.wrongs)):
        texts = [_answer(model, i, name, token) for token in ids[i].tolist() if token >= 0]
        row[name] = texts[0] if len(texts) == 1 else texts
    return {**row, "template": task.template[i], "position": int(task.positions[i])}


def _text(model: Any, i: int, name: str, ids: list[int], prepend_bos: bool | None) -> str:
    """A string that encodes to these ids: without the BOS where the model adds it, else with it."""
    for rest in (ids[1:], ids):
        text = vocabulary.decode(model, rest)
        if vocabulary.encode(model, text, prepend_bos) == ids:
            return text
    raise ValueError(
        f"prompt {i}: no text gives the tokens of {name} again with prepend_bos={prepend_bos} "
        f"({vocabulary.decode(model, ids)!r} does not). Try the other prepend_bos."
    )


def _answer(model: Any, i: int, name: str, token: int) -> str:
    """A string that reads as this token."""
    text = vocabulary.decode(model, [token])
    for candidate in (text, f" {text}"):
        if vocabulary.continuation(model, candidate) == token:
            return candidate
    raise ValueError(f"prompt {i}: {name} is the token {token} ({text!r}), which no text gives again.")


def _joined(answer: str | list[str]) -> str:
    return answer if isinstance(answer, str) else "|".join(answer)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path} ends in {suffix!r}; files of prompts end in .jsonl or .csv.")
    return suffix
