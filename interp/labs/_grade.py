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
from interp.labs._source import Lab

RUNS_CODE = (
    "This runs the students' code, each copy in a process of its own with limits of time and memory, and "
    "without a network where the platform allows it. Grade copies of people whom you know."
)


@dataclass(frozen=True)
class Grade:
    """What one copy has done: `passed` and `said` by exercise, `answers` by question, or why it could not
    be run.
    """

    path: Path
    lab: Lab | None
    passed: dict[str, bool] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str | None] = field(default_factory=dict)
    problem: str = ""
    stopped_cells: int = 0

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
    all that Windows counts. memory: bytes above what the libraries take. at_once: processes, by
    default one for two cores. tell: gets a line as each copy ends. Raises ValueError for a folder without
    copies.
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

    with ThreadPoolExecutor(at_once or max(1, (os.cpu_count() or 2) // 2)) as pool:
        return list(pool.map(one, paths))


def summary(row: Grade) -> str:
    """One copy in a few words."""
    return row.problem or f"{row.done} of {len(row.passed)} exercises"


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
    return Grade(path, lab, passed, texts, said["answers"], stopped_cells=len(said["errors"]))


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
            "problem": row.problem,
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
    """The table as a page of its own: exercises that most got wrong, every copy, what each check said."""
    lines = table(rows, folder)
    most = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{missed} of {have}</td></tr>"
        for name, missed, have in hardest(rows)
    )
    head = "".join(f"<th>{html.escape(name)}</th>" for name in lines[0])
    body = "".join(_row(line, row) for line, row in zip(lines, rows))
    return write_text(path, _PAGE.format(most=most, head=head, body=body, warning=html.escape(RUNS_CODE)))


def _row(line: dict[str, Any], row: Grade) -> str:
    cells = []
    for name, value in line.items():
        said = row.said.get(name, "")
        mark = {1: "✓", 0: "✗"}.get(value, "") if name in row.passed else str(value)
        cells.append(f'<td title="{html.escape(said)}">{html.escape(mark)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labs, graded</title>
<meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark }} body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width:
100rem }} table {{ border-collapse: collapse; margin: 1rem 0 }} th, td {{ border: 1px solid #8888; padding:
.25rem .6rem; text-align: left }} th {{ position: sticky; top: 0; background: Canvas }} div {{ overflow-x:
auto }} </style></head><body><h1>Labs, graded</h1>
<h2>Exercises, those that most got wrong first</h2><table><tr><th>exercise</th><th>not
passed</th></tr>{most}</table> <h2>Copies</h2><p>Point at a mark to read what the check said.</p>
<div><table><tr>{head}</tr>{body}</table></div><p>{warning}</p></body></html>
"""
