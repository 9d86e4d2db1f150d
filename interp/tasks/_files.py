"""Files and tables of prompts: JSONL, CSV, or a frame of pandas or polars.

One prompt pair a line, with the keys `clean`, `corrupt`, `answer`, `wrong` and, if wanted, `template` (the
cluster of the prompt), `position` (index of the token whose logits predict the answer, BOS counted; a list
of several) and `spans` (named positions of the prompt: an object from names to an index, a list of them, or
words of a text; in CSV the same in a cell). Texts, or in JSONL token ids (which need no tokenizer).
`corrupt`, or `wrong`, is left out in
every line by tasks that have none. Several answers are a list in JSONL and `a|b` in CSV, where an answer that
holds a `|` is written as a list in JSON.

    {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}
    {"clean": "The kings near the house", ..., "spans": {"subject": 2, "end": -1}}
    {"clean": [50256, 318, 262], "corrupt": [50256, 318, 257], "answer": 5335, "wrong": [1757]}

CSV may be separated by commas, semicolons or tabs; names of columns may be in any case. Files are UTF-8.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.tasks import _prompts, _tokens, _validate, vocabulary
from interp.tasks.metrics import LogitDiff, as_metric

REQUIRED = ("clean", "answer")
SIDES = ("corrupt", "wrong")
OPTIONAL = ("template", "position", "spans")
KEYS = ("clean", "corrupt", "answer", "wrong", *OPTIONAL)
_USUAL = "clean, corrupt, answer, wrong"
_PROMPT = re.compile(r"\bprompt (\d+)\b")


@dataclass(frozen=True)
class Rows:
    """The fields of a task by prompt, and where each prompt stands: `places` is "line 9" or "row 4"."""

    source: str
    places: tuple[str, ...]
    fields: dict[str, Any]

    def build(self, kind: Any, model: Any, options: dict[str, Any]) -> Any:
        """The task; an error names the place and not the number of the prompt."""
        texts = isinstance(self.fields["clean"][0], str)
        metric = as_metric(options.get("metric") or LogitDiff())
        if metric.reads_wrong and "wrong" not in {**self.fields, **options}:
            keys = ", ".join(key for key in KEYS if key in self.fields)
            raise ValueError(
                f"{self.source}, {self.places[0]}: the key 'wrong' is missing; it has {keys}. The metric "
                f"{metric.name!r} compares the answer with it; metric='log_prob' needs none."
            )
        try:
            if texts:
                return kind.from_prompts(model, **{**self.fields, **options})
            options = {key: value for key, value in options.items() if key != "prepend_bos"}
            ids = _ids(model, self.fields)
            task = kind.from_tokens(**{**ids, **options})
            _validate.require(task.problems(model))
            return task
        except ValueError as error:
            named = _PROMPT.sub(lambda match: self._place(int(match[1])), str(error))
            raise ValueError(f"{self.source}, {named}") from None

    def _place(self, prompt: int) -> str:
        return self.places[prompt] if prompt < len(self.places) else f"prompt {prompt}"


def read(path: Path) -> Rows:
    """The rows of a file. Raises ValueError, with the line, for what is not a prompt pair."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a .jsonl or .csv file of prompts.")
    kind, text = kind_of(path), text_of(path)
    rows = _read_jsonl(path, text) if kind == ".jsonl" else _read_csv(path, text)
    if not rows:
        raise ValueError(f"{path} has no prompts. Each line gives {_USUAL}.")
    return _rows(str(path), [(f"line {line}", row) for line, row in rows])


def from_frame(frame: Any) -> Rows:
    """The rows of a table (`to_dict("records")`, `to_dicts()` or `to_list()` gives them), or of a list."""
    if hasattr(frame, "to_dicts"):
        records = frame.to_dicts()
    elif hasattr(frame, "columns") and hasattr(frame, "to_dict"):
        records = frame.to_dict("records")
    elif hasattr(frame, "column_names") and hasattr(frame, "to_list"):
        records = frame.to_list()
    elif isinstance(frame, list | tuple) and all(isinstance(row, Mapping) for row in frame):
        records = list(frame)
    else:
        raise ValueError(
            f"frame is a {type(frame).__name__}; give a DataFrame of pandas or polars, "
            "a Dataset of Hugging Face's datasets, or a list of rows."
        )
    if not records:
        raise ValueError(f"the frame has no rows. Each gives {_USUAL}.")
    rows = [
        (
            f"row {i}",
            {str(key).strip().lower(): _cell(value) for key, value in record.items() if not _absent(value)},
        )
        for i, record in enumerate(records)
    ]
    return _rows("the frame", rows)


def _cell(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _rows(source: str, rows: list[tuple[str, dict[str, Any]]]) -> Rows:
    for place, row in rows:
        _require_keys(source, place, row)
    fields: dict[str, Any] = {key: [row[key] for _, row in rows] for key in REQUIRED}
    for key in SIDES:
        if column := _optional(source, rows, key):
            fields[key] = column
    if column := _optional(source, rows, "template"):
        fields["template"] = [str(value) for value in column]
    if column := _optional(source, rows, "position"):
        fields["positions"] = [_position(source, place, value) for (place, _), value in zip(rows, column)]
    if spans := _spans_of(source, rows):
        fields["spans"] = spans
    kinds = {type(row["clean"]) for _, row in rows}
    if len(kinds) > 1:
        raise ValueError(
            f"{source}: some lines have texts and some token ids. Use one of the two throughout."
        )
    return Rows(source, tuple(place for place, _ in rows), fields)


def _ids(model: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `from_tokens` on the model's device."""
    answers = {
        key: [[ids] if isinstance(ids, int) else ids for ids in fields[key]]
        for key in ("answer", "wrong")
        if key in fields
    }
    if "positions" in fields and any(isinstance(where, list) for where in fields["positions"]):
        device = vocabulary.device(model)
        several = {key: _tokens.pad_ids(key, ids, device) for key, ids in answers.items()}
        several["positions"] = _tokens.pad_ids("positions", fields["positions"], device)
        answers = dict.fromkeys(answers)
    else:
        several = {}
    named = _prompts.from_ids(
        model,
        clean=fields["clean"],
        corrupt=fields.get("corrupt"),
        answer=answers.get("answer"),
        wrong=answers.get("wrong"),
    )
    rest = {key: fields[key] for key in ("template", "positions", "spans") if key in fields}
    return {**named, **rest, **several}


def text_of(path: Path) -> str:
    """The text of the file; ValueError, with advice, where it is not UTF-8."""
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is UTF-16 text, as spreadsheets save it. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text (Latin-1, perhaps). "
            "Save the file as UTF-8."
        ) from None


def _read_jsonl(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for line, entry in enumerate(text.split("\n"), start=1):  # not splitlines: texts may hold U+2028, U+0085
        if not entry.strip():
            continue
        try:
            row = json.loads(entry)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {line}: not JSON ({error.msg} at column {error.colno})."
            ) from None
        except RecursionError:
            raise ValueError(f"{path}, line {line}: nested too deeply to be a prompt pair.") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {line}: a {type(row).__name__}; each line is an object in braces."
            )
        rows.append((line, {key: value for key, value in row.items() if value is not None}))
    return rows


def _read_csv(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    lines = io.StringIO(text, newline="")
    header = text.split("\n", 1)[0]
    counts = {mark: header.count(mark) for mark in (",", ";", "\t")}
    reader = csv.reader(lines, delimiter=max(counts, key=lambda mark: counts[mark]))
    names = [name.strip().lower() for name in next(_lines(path, reader), [])]
    rows = []
    for cells in _lines(path, reader):
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(names):
            raise ValueError(
                f"{path}, line {line}: more fields than the {len(names)} of the first line. "
                "Put texts that hold a comma in double quotes."
            )
        row: dict[str, Any] = {name: cell for name, cell in zip(names, cells) if cell}
        rows.append((line, {k: several(v) if k in ("answer", "wrong") else v for k, v in row.items()}))
    return rows


def _lines(path: Path, reader: Any) -> Iterator[list[str]]:
    """The rows of a reader. ValueError, with the line, for what it cannot read."""
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + 1}: no CSV that can be read ({error}).") from None


def several(cell: str) -> str | list[str]:
    """A cell of answers: a list in JSON, `a|b`, or one."""
    if cell.startswith("["):
        try:
            listed = json.loads(cell)
        except (json.JSONDecodeError, RecursionError):
            listed = None
        if isinstance(listed, list) and listed and all(isinstance(each, str) for each in listed):
            return listed
    return cell.split("|") if "|" in cell else cell


def _require_keys(source: str, place: str, row: dict[str, Any]) -> None:
    for key in REQUIRED:
        if key not in row:
            raise ValueError(
                f"{source}, {place}: the key {key!r} is missing; it has "
                f"{', '.join(map(str, row)) or 'none'}. Each line gives {_USUAL}."
            )
    ids = isinstance(row["clean"], list)
    for key in ("clean", "corrupt"):
        if key in row and not (_is_ids(row[key]) if ids else isinstance(row[key], str)):
            wanted = "a list of token ids, as clean is" if ids else "a string"
            raise ValueError(f"{source}, {place}: {key} is a {type(row[key]).__name__}; it must be {wanted}.")
    for key in ("answer", "wrong"):
        values = row.get(key, "")
        values = values if isinstance(values, list) else [values]
        good = _is_nested(values) if ids else all(isinstance(value, str) for value in values)
        if key in row and (not values or not good):
            wanted = "a token id or a list of them" if ids else "a string or a list of strings"
            raise ValueError(f"{source}, {place}: {key} is {row[key]!r}; it must be {wanted}.")


def _is_ids(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(value) is int for value in values)


def _is_nested(values: list[Any]) -> bool:
    return all(type(value) is int or _is_ids(value) for value in values)


def _optional(source: str, rows: list[tuple[str, dict[str, Any]]], key: str) -> list[Any]:
    """The column, or [] when no line has it; some lines having it is a mistake."""
    have = [place for place, row in rows if key in row]
    if have and len(have) < len(rows):
        lacking = next(place for place, row in rows if key not in row)
        keys = ", ".join(map(str, next(row for _, row in rows if key not in row)))
        has = f"; it has {keys}" if key in SIDES else ""
        raise ValueError(f"{source}, {lacking}: the key {key!r} is missing{has}, but {have[0]} has it.")
    return [row[key] for _, row in rows] if have else []


def _position(source: str, place: str, value: Any) -> Any:
    if isinstance(value, list) and _is_ids(value):
        return value
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{source}, {place}: position is {value!r}; it must be a whole number.") from None


def _spans_of(source: str, rows: list[tuple[str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """Named positions: by name an entry for each line, None where it has none."""
    named = [_named(source, place, row["spans"]) if "spans" in row else {} for place, row in rows]
    names = dict.fromkeys(name for each in named for name in each)
    return {name: [each.get(name) for each in named] for name in names}


def _named(source: str, place: str, given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        with suppress(json.JSONDecodeError, RecursionError):
            given = json.loads(given)
    if not isinstance(given, dict):
        raise ValueError(
            f"{source}, {place}: spans is {given!r:.80}; it must be an object from names to positions, such "
            'as {"subject": 2, "end": -1}.'
        )
    return {str(name): at for name, at in given.items()}


def kind_of(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".csv"):
        raise ValueError(f"{path} ends in {suffix!r}; files of prompts end in .jsonl or .csv.")
    return suffix
