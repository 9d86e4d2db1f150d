"""Copies of labs for students and teachers: notebooks without outputs, or Python files; and reading them
again.

A student's copy holds no solution, no answer and nothing that is meant for the teacher. The teacher's holds
all of it, and runs from top to bottom.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.files import notebooks_dir, write_text
from interp.labs._source import Cell, Lab, labs, pick, read_cells, write_cells

TEACHER_ONLY = ("solution", "answer", "teacher")
SEED = re.compile(r"^SEED = \d+", re.M)
HEADER = re.compile(r"^# interp lab (\d+)")


def copy(
    folder: str | Path,
    which: Sequence[str] | None = None,
    *,
    teacher: bool = False,
    seed: int = 0,
    form: str = "ipynb",
    overwrite: bool = False,
) -> list[Path]:
    """Write copies of labs into a folder; the paths.

    which: labs by number or name (default: all). teacher: with solutions, answers, minutes and common
    mistakes. seed: picks the student's own names, templates and draws; the finding is the same. form: `ipynb`
    or `py`. A file that is there is left alone unless overwrite: ValueError, before anything is written.

    Example:
        >>> import tempfile
        >>> from interp import labs
        >>> [path.name for path in labs.copy(tempfile.mkdtemp(), ["1"], seed=7)]
        ['lab01_patching.ipynb']
    """
    if form not in ("ipynb", "py"):
        raise ValueError(f"form is {form!r}; it must be 'ipynb' or 'py'.")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be 0 or more.")
    chosen = [pick(name) for name in which] if which else list(labs().values())
    folder = Path(folder)
    end = f"_teacher.{form}" if teacher else f".{form}"
    paths = [folder / f"{lab.name}{end}" for lab in chosen]
    _refuse_to_overwrite(folder, paths, overwrite)
    for lab, path in zip(chosen, paths):
        cells = cells_for(lab, teacher=teacher, seed=seed)
        write_text(path, _notebook(lab, cells, seed) if form == "ipynb" else _script(lab, cells, seed))
    return paths


def research(folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Write the research notebooks (patching, circuits, estimators, steering, features, SmolLM2) with their
    pictures into a folder, as the start of a project; the paths. Raises ValueError as `copy` does.

    Example:
        >>> import tempfile
        >>> from interp import labs
        >>> [path.name for path in labs.research(tempfile.mkdtemp())][:2]
        ['circuits.ipynb', 'estimators.ipynb']
    """
    folder = Path(folder)
    sources = sorted(notebooks_dir().glob("*.ipynb"))
    paths = [folder / source.name for source in sources]
    _refuse_to_overwrite(folder, paths, overwrite)
    for source, path in zip(sources, paths):
        write_text(path, source.read_text(encoding="utf-8"))
    return paths


def _refuse_to_overwrite(folder: Path, paths: Sequence[Path], overwrite: bool) -> None:
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        raise ValueError(
            f"{folder} already has {', '.join(there)}, perhaps with somebody's work. "
            "Choose another folder, or say overwrite=True (--overwrite)."
        )


def cells_for(lab: Lab, *, teacher: bool = False, seed: int = 0) -> tuple[Cell, ...]:
    """The cells of a copy."""
    kept = (cell for cell in lab.cells if teacher or cell.kind not in TEACHER_ONLY)
    return tuple(Cell(cell.kind, cell.name, SEED.sub(f"SEED = {seed}", cell.text)) for cell in kept)


def read_copy(path: str | Path) -> tuple[Lab, list[str]]:
    """The lab that a copy is of, and the code of its cells as the student left it.

    Raises ValueError for a file that is no notebook and no Python file, cannot be read, or is of no lab.
    """
    path = Path(path)
    if path.suffix not in (".ipynb", ".py"):
        raise ValueError(f"{path.name} is no copy of a lab: it must end in .ipynb or .py.")
    try:
        text = path.read_text(encoding="utf-8")
        notebook = json.loads(text) if path.suffix == ".ipynb" else None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}.") from None
    if notebook is None:
        said = HEADER.match(text)
        number, code = said and said[1], [cell.text for cell in read_cells(text) if not cell.is_text]
    else:
        number, code = _number(notebook), _code(notebook)
    try:
        return pick(number or path.stem), code
    except ValueError:
        raise ValueError(f"{path.name} is of no lab: call it lab01_... again, after its lab.") from None


def _number(notebook: Any) -> str | None:
    metadata = notebook.get("metadata", {}) if isinstance(notebook, dict) else {}
    return metadata.get("interp_lab", {}).get("number")


def _code(notebook: Any) -> list[str]:
    cells = notebook.get("cells", []) if isinstance(notebook, dict) else []
    code = (cell.get("source", "") for cell in cells if cell.get("cell_type") == "code")
    return ["".join(source) for source in code]


def _script(lab: Lab, cells: tuple[Cell, ...], seed: int) -> str:
    return f"# interp lab {lab.number}, seed {seed}\n\n{write_cells(cells)}"


def _notebook(lab: Lab, cells: tuple[Cell, ...], seed: int) -> str:
    """A notebook of format 4.5 without outputs."""
    entries = []
    for index, cell in enumerate(cells):
        entry: dict[str, Any] = {
            "cell_type": "markdown" if cell.is_text else "code",
            "id": f"cell-{index}",
            "metadata": {"tags": [cell.kind, *([cell.name] if cell.name else [])]},
            "source": cell.text.splitlines(keepends=True),
        }
        entries.append(entry if cell.is_text else entry | {"execution_count": None, "outputs": []})
    metadata = {
        "interp_lab": {"number": lab.number, "seed": seed},
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": entries, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
