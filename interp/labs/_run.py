"""Running a copy: its cells one by one, then the check of every exercise, then what its questions hold.

A cell that raises is noted, and the next one runs: a student who is stuck at one exercise has done others.
Checks and right answers are fetched before any of the copy's code runs.

`python -m interp.labs._run FILE` is the process of its own that `interp labs grade` starts: it reads limits
and a secret word from standard input, and its last line is that word and the report.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from interp.labs._copies import read_copy
from interp.labs._source import Lab


def run_cells(code: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Run cells in one namespace; what they left there, and one line for every cell that raised."""
    namespace: dict[str, Any] = {"__name__": "student"}
    errors = [_run_cell(cell, number, namespace) for number, cell in enumerate(code)]
    return namespace, [error for error in errors if error]


def _run_cell(cell: str, number: int, namespace: dict[str, Any]) -> str:
    """Run one cell; empty, or the error that it raised in one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(_plain(cell), f"<cell {number}>", "exec"), namespace)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a copy that ends itself has still done something
        text = str(error).splitlines()
        return f"{type(error).__name__}: {text[0] if text else ''}"
    return ""


def report(path: Path, begin: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run a copy and judge it: `lab`, `passed` by exercise with what its check says, `answers`, `errors`.

    begin: called when all is loaded and the copy's own code is about to run.
    """
    lab, code = read_copy(path)
    checks = _checks(lab)
    right = lab.answers
    begin()
    with _as_it_was():
        namespace, errors = run_cells(_without_checks(cell) for cell in code)
    passed = {name: _judge(check, namespace.get(name)) for name, check in checks.items()}
    answers = {name: namespace.get(name) for name in right}
    kept = {name: value if isinstance(value, str) else None for name, value in answers.items()}
    return {"lab": lab.number, "passed": passed, "answers": kept, "errors": errors}


def _checks(lab: Lab) -> dict[str, Any]:
    """The judge of each exercise, bound now, so that a copy that puts another in its place changes
    nothing.
    """
    from interp.labs import check

    exercises = {name: getattr(check, name) for name in lab.exercises}
    for exercise in exercises.values():
        for case in exercise.cases():
            case.args()  # models and tasks are loaded before the copy's code runs
    return {name: exercise.judge for name, exercise in exercises.items()}


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Put the modules and exercises of the labs back to what they were, whatever a copy did to them."""
    from interp.labs._exercise import Exercise

    owners = [module for name, module in sys.modules.items() if name.startswith("interp.labs.") and module]
    owners += [value for module in owners for value in vars(module).values() if isinstance(value, Exercise)]
    before = [(vars(owner), dict(vars(owner))) for owner in owners]
    methods = dict(vars(Exercise))
    yield
    for now, then in before:
        now.clear()
        now.update(then)
    for name, value in methods.items():
        if vars(Exercise)[name] is not value:
            setattr(Exercise, name, value)


def _judge(check: Any, fn: Any) -> list[Any]:
    """[whether it passes, what the check says]."""
    from interp.labs._exercise import NotYet, Wrong

    if fn is None:
        return [False, "not there"]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return [True, check(fn)]
    except NotYet:
        return [False, "not written yet"]
    except Wrong as error:
        return [False, str(error)]
    except BaseException as error:
        return [False, f"{type(error).__name__}: {error}"]


def _without_checks(cell: str) -> str:
    """A cell less the lines that call a check: all checks run at the end, once."""
    try:
        body = ast.parse(_plain(cell)).body
    except SyntaxError:
        return cell
    kept = [part for part in body if not _is_check(part)]
    return cell if len(kept) == len(body) else "\n".join(ast.unparse(part) for part in kept)


def _is_check(part: ast.stmt) -> bool:
    call = part.value if isinstance(part, ast.Expr) else None
    of = call.func if isinstance(call, ast.Call) else None
    return isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name) and of.value.id == "check"


def _plain(cell: str) -> str:
    """A cell without a notebook's own commands: lines that begin with % or !."""
    lines = cell.splitlines()
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def main() -> None:
    """The process of its own: limits, then the report of one copy."""
    from interp.labs._limits import limit, limit_time

    settings = json.loads(sys.stdin.readline())
    word, seconds = settings["word"], settings["seconds"]
    held = limit(settings["memory"])
    try:
        said = report(Path(sys.argv[1]), lambda: limit_time(seconds)) | {"limits": held}
    except MemoryError:
        said = {"failed": "more memory than it may have"}
    sys.__stdout__.write(f"\n{word}{json.dumps(said)}\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
