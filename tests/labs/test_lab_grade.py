"""A folder with a good, an empty, a crashing, an endless, a greedy and two cheating copies gives the
right table.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from interp.labs import labs
from interp.labs._copies import cells_for
from interp.labs._grade import Grade, grade, hardest, right, write_csv, write_html
from interp.labs._source import Cell, write_cells

HEAD = "# interp lab 01, seed 0\n\n"
ANSWERS = 'before_layer_0 = "b"\nafter_layer_0 = "a"\nfinding = "=SUM(1)"\n'


def solutions() -> str:
    """The functions alone, so that the copy runs in the time of its imports."""
    cells = [Cell("code", "", "import torch")]
    cells += [cell for cell in cells_for(labs()["01"], teacher=True) if cell.kind == "solution"]
    return HEAD + write_cells(tuple(cells)) + "\n# %%\n" + ANSWERS


COPIES = {
    "good/lab01.py": solutions(),
    "crashing/lab01.py": HEAD + "# %%\nraise RuntimeError('no')\n\n# %%\nimport os\n\n# %%\nos._exit(3)\n",
    "endless/lab01.py": HEAD + "# %%\nwhile True:\n    pass\n",
    "cheating/lab01.py": HEAD
    + "# %%\nfrom interp.labs import check, Exercise\nfrom interp.labs.checks import lab01\n"
    + "logit_diff = lab01._logit_diff\n"
    + "put_clean = lambda *args: lab01._put_clean(*args)\n"
    + "Exercise.judge = lambda self, fn: 'passed'\n"
    + "Exercise._one = lambda self, fn, case: 1\n"
    + "def sweep(*args): return 1\n"
    + "check.sweep.cases = lambda: []\n"
    + "print('passed: all')\n",
    "broken/lab01.py": HEAD + "# %%\nraise NotImplementedError('a stub')\n\n# %%\ndef logit_diff(:\n",
    "other/notes.txt": "not a copy",
    "empty/lab01.ipynb": "",
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Grade]]:
    folder = tmp_path_factory.mktemp("class")
    for name, text in COPIES.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text, encoding="utf-8")
    rows = grade(folder, seconds=8, at_once=4)
    return folder, {row.path.parent.name: row for row in rows}


@pytest.mark.slow
def test_every_copy_is_a_row(graded: tuple[Path, dict[str, Grade]], tmp_path: Path) -> None:
    folder, rows = graded
    assert set(rows) == {"good", "crashing", "endless", "cheating", "broken", "empty"}
    assert (rows["good"].done, rows["good"].problem) == (4, "")
    assert right(rows["good"]) == 1
    assert rows["crashing"].problem == "ended with status 3"
    assert rows["endless"].problem == "stopped after 8 seconds"
    assert "cannot be read" in rows["empty"].problem
    assert [rows[name].done for name in ("crashing", "endless", "cheating", "empty")] == [0, 0, 0, 0]
    assert "lab's own" in rows["cheating"].said["logit_diff"]
    listed = list(rows.values())
    assert hardest(listed)[0][1:] == (4, 5)
    assert (rows["broken"].problem, rows["broken"].error[:12]) == ("", "SyntaxError:")
    with write_csv(listed, folder, tmp_path / "table.csv").open(encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file))
    assert [line["exercises"] for line in lines] == [str(row.done) for row in listed]
    assert next(line["finding"] for line in lines if "good" in line["file"]) == "'=SUM(1)"
    page = write_html(listed, folder, tmp_path / "table.html").read_text(encoding="utf-8")
    assert "stopped after 8 seconds" in page
    assert "runs the students&#x27; code" in page
    assert "6 copies; 1 with every exercise right; 3 that could not be run to the end." in page
    assert "SyntaxError" in page
    assert page.index("Lab 01") < page.index("your function calls the lab") < page.index("Not read")


def test_a_folder_without_copies_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no copies"):
        grade(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        grade(tmp_path / "none")
