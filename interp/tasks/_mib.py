"""Tasks in the rows of the Mechanistic Interpretability Benchmark (MIB, 2504.13151), as people load them.

| family     | columns that tell it      | answer                  | wrong answer                |
|------------|---------------------------|-------------------------|-----------------------------|
| ioi        | metadata.indirect_object  | the indirect object     | the subject                 |
| arithmetic | operand1, operand2, label | the result              | the counterfactual's result |
| mcqa, arc  | choices, answerKey        | the label of the choice | the counterfactual's label  |

Every counterfactual is a column that ends in `_counterfactual` and holds a row of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp._verbs import verb, warn
from interp.tasks import vocabulary
from interp.tasks._task import Task
from interp.tasks.metrics import Metric

_USUAL = {
    "ioi": "s2_io_flip_counterfactual",
    "arithmetic": "random_counterfactual",
    "mcqa": "symbol_counterfactual",
}
_END = "_counterfactual"
_LEAD = {"ioi": " ", "arithmetic": "", "mcqa": ""}  # as the benchmark's own circuit track reads answers
Row = Mapping[str, Any]


@verb
def mib(
    model: Any,
    rows: str | Path | Iterable[Any],
    *,
    counterfactual: str | None = None,
    lead: str | None = None,
    n: int | None = None,
    metric: Metric | str | None = None,
) -> Task:
    """A task from rows of MIB: IOI, arithmetic, MCQA or ARC, known by their columns.

    rows: a .jsonl file, or rows as `datasets` gives them (`load_dataset("mib-bench/ioi", split="test")`).
    counterfactual: the column that holds the corrupt prompts; by default that of MIB's circuit track
    (s2_io_flip, random, symbol). lead: what stands before an answer, by default as in MIB: a space in ioi,
    nothing else. n: the first so many rows that fit.

    Rows whose two prompts have other numbers of tokens, or whose answers are not one token, are left out, as
    in MIB; a warning says how many. Raises ValueError for rows that are none of MIB's, for a counterfactual
    that they do not have (the message lists them), and where no row, or fewer than n, fit this tokenizer.

    Example:
        >>> row = {
        ...     "prompt": "When Mary and John went to the store, John gave a book to",
        ...     "metadata": {"indirect_object": "Mary", "subject": "John"},
        ...     "s2_io_flip_counterfactual": {
        ...         "prompt": "When Mary and John went to the store, Mary gave a book to"
        ...     },
        ... }
        >>> interp.tasks.mib(interp.load("tiny-ioi"), [row]).name
        'mib ioi'
    """
    if n is not None and n < 1:
        raise ValueError(f"n is {n}; ask for at least one row, or None for all.")
    listed = _read(Path(rows)) if isinstance(rows, str | Path) else list(rows)
    if not listed:
        raise ValueError("there are no rows. Give a .jsonl file, or rows of a data set of MIB.")
    family = _family(listed[0])
    column = _column(listed[0], family, counterfactual)
    start = _LEAD[family] if lead is None else lead
    pairs = [_pair(row, i, family, column, start) for i, row in enumerate(listed)]
    fitting = [pair for pair in pairs if _fits(model, pair)]
    if not fitting or (n is not None and len(fitting) < n):
        raise ValueError(
            f"{len(fitting)} of {len(pairs)} rows fit this tokenizer (both prompts as many tokens, both "
            f"answers one token){'' if n is None else f', and n is {n}'}. "
            f"The first row asks for {pairs[0]['answer']!r}."
        )
    chosen = fitting[:n]
    if len(fitting) < len(pairs):
        warn(f"{len(pairs) - len(fitting)} of {len(pairs)} rows do not fit this tokenizer and are left out.")
    fields: dict[str, Any] = {key: [pair[key] for pair in chosen] for key in chosen[0]}
    return Task.from_prompts(model, **fields, metric=metric, name=f"mib {family}")


def _read(path: Path) -> list[Row]:
    if path.suffix != ".jsonl" or not path.is_file():
        raise ValueError(
            f"{path} is no .jsonl file of rows. `datasets` writes one: rows.to_json('rows.jsonl')."
        )
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [_row(path, number, text) for number, text in enumerate(lines, start=1) if text.strip()]


def _row(path: Path, number: int, text: str) -> Row:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"{path}, line {number}: not JSON.") from None


def _family(row: Any) -> str:
    if isinstance(row, Mapping) and isinstance(row.get("prompt"), str):
        if "indirect_object" in (row.get("metadata") or {}):
            return "ioi"
        if {"operand1", "operand2", "label"} <= set(row):
            return "arithmetic"
        if {"choices", "answerKey"} <= set(row):
            return "mcqa"
    has = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
    raise ValueError(
        f"a row has {has}; rows of MIB have prompt and metadata.indirect_object (ioi), operand1, operand2 "
        "and label (arithmetic), or choices and answerKey (mcqa, arc)."
    )


def _column(row: Row, family: str, given: str | None) -> str:
    """The full name of the counterfactual's column."""
    known = [name for name in row if name.endswith(_END)]
    name = _USUAL[family] if given is None else given if given.endswith(_END) else given + _END
    if name not in known:
        raise ValueError(
            f"counterfactual {name!r} is none of these rows'. They have: {', '.join(known) or 'none'}."
        )
    return name


def _pair(row: Row, i: int, family: str, column: str, lead: str) -> dict[str, Any]:
    """The arguments of a prompt."""
    try:
        other = row[column]
        answer, wrong = _answers(row, other, family)
        clean, corrupt = str(row["prompt"]), str(other["prompt"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"row {i} lacks {error}; it is no row of MIB's {family}.") from None
    return {
        "clean": clean,
        "corrupt": corrupt,
        "answer": lead + answer,
        "wrong": lead + wrong,
        "template": str(row.get("template") or family),
    }


def _answers(row: Row, other: Row, family: str) -> Sequence[str]:
    if family == "ioi":
        return row["metadata"]["indirect_object"], row["metadata"]["subject"]
    if family == "arithmetic":
        return str(row["label"]), str(other["label"])
    return [str(each["choices"]["label"][each["answerKey"]]) for each in (row, other)]


def _fits(model: Any, pair: Mapping[str, Any]) -> bool:
    lengths = {len(vocabulary.encode(model, pair[side])) for side in ("clean", "corrupt")}
    answers = {vocabulary.continuation(model, pair[side]) for side in ("answer", "wrong")}
    return len(lengths) == 1 and len(answers) == 2 and None not in answers
