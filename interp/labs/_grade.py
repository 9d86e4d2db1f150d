"""Grading a folder of copies: each in a process of its own, with limits; one row a copy, whatever happens in
it.

This runs the students' code. Each copy gets a time, a memory and no network, as far as the platform allows
(`interp.labs._limits`), and its verdict is the checks' own, fetched before the copy's code ran. That stops
mistakes and mischief of the usual kind, not an attack: grade copies of people whom you know.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.files import write_text
from interp.labs._copies import read_copy
from interp.labs._doctor import free_memory
from interp.labs._source import Lab

RUNS_CODE = (
    "This runs the students' code, each copy in a process of its own with limits of time and memory, and "
    "without a network where the platform allows it. Grade copies of people whom you know."
)


@dataclass(frozen=True)
class Grade:
    """What one copy has done: `passed` and `said` by exercise, `answers` by question, the first `error` of
    its own cells (a stub that is not filled in is none), or why it could not be run.
    """

    path: Path
    lab: Lab | None
    passed: dict[str, bool] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str | None] = field(default_factory=dict)
    problem: str = ""
    error: str = ""

    @property
    def done(self) -> int:
        """Exercises whose check passed."""
        return sum(self.passed.values())


def grade(
    folder: str | Path,
    *,
    seconds: float = 180.0,
    memory: int = 4 * 2**30,
    at_once: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Grade]:
    """Run every copy (.ipynb, .py) in a folder and below; a row each, by path.

    seconds: of processor time for one copy's own code; four times that and two minutes of wall time, which is
    all that Windows counts. memory: bytes above what the libraries take. at_once: processes, by default one
    for each core and each 2 GiB of free memory (a copy computes on one core). tell: gets a line as each copy
    ends. Raises ValueError for a folder without copies.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder.")
    if seconds <= 0 or memory <= 0:
        raise ValueError(f"seconds is {seconds} and memory {memory}; both must be more than 0.")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in (".ipynb", ".py") and not any(part.startswith(".") for part in path.parts)
    )
    if not paths:
        raise ValueError(f"{folder} holds no copies: they end in .ipynb or .py.")

    def one(path: Path) -> Grade:
        row = _grade(path, seconds, memory)
        tell(f"{path.relative_to(folder)}: {summary(row)}")
        return row

    with ThreadPoolExecutor(at_once or _room()) as pool:
        return list(pool.map(one, paths))


def _room() -> int:
    """How many copies the computer holds at once."""
    free = free_memory()
    by_memory = free // (2 * 2**30) if free else 1
    return max(1, min(os.cpu_count() or 1, by_memory))


def summary(row: Grade) -> str:
    """One copy in a few words."""
    return row.problem or f"{row.done} of {len(row.passed)} exercises" + (
        f"; {row.error}" if row.error else ""
    )


def _grade(path: Path, seconds: float, memory: int) -> Grade:
    try:
        lab, _ = read_copy(path)
    except ValueError as error:
        return Grade(path, None, problem=str(error))
    word = secrets.token_hex(16)
    text, problem = _run(path, seconds, json.dumps({"word": word, "memory": memory, "seconds": seconds}))
    line = next((line for line in text.splitlines() if line.startswith(word)), None)
    if line is None:
        return Grade(path, lab, dict.fromkeys(lab.exercises, False), problem=problem or "ended itself")
    said = json.loads(line[len(word) :])
    if "failed" in said:
        return Grade(path, lab, dict.fromkeys(lab.exercises, False), problem=said["failed"])
    passed = {name: bool(verdict[0]) for name, verdict in said["passed"].items()}
    texts = {name: verdict[1] for name, verdict in said["passed"].items()}
    errors = (error for error in said["errors"] if not error.startswith("NotImplementedError"))
    return Grade(path, lab, passed, texts, said["answers"], error=next(errors, ""))


def _run(path: Path, seconds: float, settings: str) -> tuple[str, str]:
    """What a copy's process wrote to standard output, and why it ended early, if it did."""
    environment = dict(os.environ)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
        environment[name] = "1"
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-m", "interp.labs._run", str(path.resolve())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=empty,
            env=environment, start_new_session=os.name == "posix", encoding="utf-8", errors="replace",
        )  # fmt: skip
        try:
            text, _ = process.communicate(settings + "\n", timeout=4 * seconds + 120)
        except subprocess.TimeoutExpired:
            _end(process)
            process.communicate()
            return "", f"stopped after {seconds:g} seconds"
    if os.name == "posix" and process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return "", f"stopped after {seconds:g} seconds"
    return text, "" if process.returncode == 0 else f"ended with status {process.returncode}"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and, where the system has groups, all that it started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


# Tables


def right(row: Grade) -> int:
    """Questions whose choice is the teacher's; the finding, which is a sentence, is not counted."""
    answers = row.lab.answers if row.lab else {}
    return sum(row.answers.get(name) == value for name, value in answers.items() if name != "finding")


def hardest(rows: Sequence[Grade]) -> list[tuple[str, int, int]]:
    """(exercise, copies that did not pass it, copies that have it), those that most got wrong first."""
    have = Counter(name for row in rows for name in row.passed)
    missed = Counter(name for row in rows for name, passed in row.passed.items() if not passed)
    return sorted(
        ((name, missed[name], have[name]) for name in have), key=lambda row: (-row[1] / row[2], row[0])
    )


EMPTY = ("not there", "not written yet")  # what `_run` says of an exercise that was not begun
COLUMNS = ("file", "lab", "exercises", "of", "predictions", "finding", "problem")


def table(rows: Sequence[Grade], folder: Path) -> list[dict[str, Any]]:
    """One row a copy: the columns above, and each exercise with 1 or 0 (empty where its lab has none)."""
    names = list(dict.fromkeys(name for row in rows for name in row.passed))
    return [
        {
            "file": str(row.path.relative_to(folder)),
            "lab": row.lab.number if row.lab else "",
            "exercises": row.done,
            "of": len(row.passed),
            "predictions": right(row),
            "finding": row.answers.get("finding") or "",
            "problem": row.problem or row.error,
            **{name: int(row.passed[name]) if name in row.passed else "" for name in names},
        }
        for row in rows
    ]


def write_csv(rows: Sequence[Grade], folder: Path, path: Path) -> Path:
    """The table as CSV, with a byte order mark, so that spreadsheets read its accents."""
    lines = table(rows, folder)
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in line.items()} for line in lines)
    return write_text(path, "\ufeff" + text.getvalue())


def _harmless(value: Any) -> Any:
    """A student's text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def write_html(rows: Sequence[Grade], folder: Path, path: Path) -> Path:
    """The table as a page of its own: exercises that most got wrong, then each lab's copies with what the
    checks said.
    """
    most = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{missed} of {have}</td>"
        f"<td><meter min=0 max={have} value={missed}>{missed} of {have}</meter></td></tr>"
        for name, missed, have in hardest(rows)[:12]
        if missed
    )
    whole = sum(bool(row.passed) and row.done == len(row.passed) for row in rows)
    stopped = sum(bool(row.problem) for row in rows)
    line = (
        f"{len(rows)} copies; {whole} with every exercise right; {stopped} that could not be run to the end."
    )
    labs = {row.lab.number: row.lab for row in rows if row.lab}
    parts = [
        _lab_table(lab, [row for row in rows if row.lab is lab], folder) for _, lab in sorted(labs.items())
    ]
    if strangers := [row for row in rows if row.lab is None]:
        parts.append(_strangers(strangers, folder))
    page = _PAGE.format(line=line, most=most, copies="".join(parts), warning=html.escape(RUNS_CODE))
    return write_text(path, page)


def _lab_table(lab: Lab, rows: Sequence[Grade], folder: Path) -> str:
    """The copies of one lab: a mark for each exercise, predictions, and the finding with what checks said."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*lab.exercises, "predictions", "in words"))
    questions = len([name for name in lab.answers if name != "finding"])
    body = "".join(_row(row, lab, questions, folder) for row in rows)
    table = f"<table><tr><th>copy</th>{head}</tr>{body}</table>"
    return f"<h2>{html.escape(lab.title)}</h2><div tabindex=0>{table}</div>"


def _row(row: Grade, lab: Lab, questions: int, folder: Path) -> str:
    marks = [
        '<td class="yes">✓ right</td>' if row.passed.get(name)
        else f'<td class="no">{"– empty" if row.said.get(name) in EMPTY else "✗ not yet"}</td>'
        for name in lab.exercises
    ]  # fmt: skip
    words = [f'<p class="no">{html.escape(row.problem or row.error)}</p>'] if row.problem or row.error else []
    words += [f"<p>{html.escape(finding)}</p>"] if (finding := row.answers.get("finding")) else []
    wrong = [text for name, text in row.said.items() if not row.passed[name] and text not in EMPTY]
    if wrong:
        said = html.escape("\n\n".join(wrong))
        words.append(f"<details><summary>what the checks said</summary><pre>{said}</pre></details>")
    name = html.escape(str(row.path.relative_to(folder)))
    cells = [
        f"<th>{name}</th>",
        *marks,
        f"<td>{right(row)} of {questions}</td>",
        f"<td>{''.join(words)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _strangers(rows: Sequence[Grade], folder: Path) -> str:
    """Files that are copies of no lab, each with the reason."""
    items = "".join(
        f"<li><b>{html.escape(str(row.path.relative_to(folder)))}</b>: {html.escape(row.problem)}</li>"
        for row in rows
    )
    return f"<h2>Not read</h2><ul>{items}</ul>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labs, graded</title>
<meta name="viewport" content="width=device-width"><style>
html {{ color-scheme: light dark; background: Canvas; color: CanvasText }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; padding: 0 1rem; max-width: 90rem }}
h2 {{ margin: 2rem 0 .5rem; font-size: 1.15rem }}
table {{ border-collapse: collapse }}
th, td {{ padding: .3rem .7rem; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid #8886 }}
tr:first-child th {{ font-weight: 600 }}
td {{ white-space: nowrap }} td:last-child {{ white-space: normal; min-width: 16rem }}
p {{ margin: 0 }} pre {{ white-space: pre-wrap; margin: .3rem 0; font-size: 13px }}
meter {{ width: 10rem }} div {{ overflow-x: auto }}
.yes {{ color: light-dark(#1a6334, #7fd39a) }} .no {{ color: light-dark(#a3221c, #ff9d8f) }}
</style></head><body><main><h1>Labs, graded</h1><p>{line}</p>
<h2>Exercises, those that most got wrong first</h2><table><tr><th>exercise</th><th>not
passed</th><th>share</th></tr>{most}</table>
{copies}<p>{warning}</p></main></body></html>
"""
