"""Copies: the student's holds no solution, the teacher's runs; a seed changes the task and not the
finding.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

import interp
from interp.labs import copy, labs, research
from interp.labs._copies import cells_for, read_copy
from interp.labs._run import run_cells
from interp.labs._source import read_cells, write_cells


def test_student_copies_hold_no_solution(tmp_path: Path) -> None:
    paths = copy(tmp_path, seed=3)
    assert len(paths) == len(labs())
    for path, lab in zip(paths, labs().values()):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text = path.read_text(encoding="utf-8")
        assert "SEED = 3" in text
        for cell in lab.cells:
            if cell.kind in ("solution", "answer", "teacher"):
                assert json.dumps(cell.text.splitlines()[-1], ensure_ascii=False)[1:-1] not in text
        assert not any(cell.get("outputs") for cell in notebook.cells)
        assert read_copy(path)[0] is lab


def test_python_copies_are_read_back_as_they_are(tmp_path: Path) -> None:
    (path,) = copy(tmp_path, ["lab01"], form="py", teacher=True)
    assert path.name == "lab01_patching_teacher.py"
    lab, code = read_copy(path)
    assert code == [cell.text for cell in lab.cells if not cell.is_text]
    assert read_cells(write_cells(lab.cells)) == lab.cells


def test_nobodys_work_is_overwritten(tmp_path: Path) -> None:
    copy(tmp_path, ["1"])
    with pytest.raises(ValueError, match=r"already has lab01_patching.ipynb"):
        copy(tmp_path, ["1"])
    copy(tmp_path, ["1"], overwrite=True)
    with pytest.raises(ValueError, match="there is no lab 'lab77'"):
        copy(tmp_path, ["lab77"])


def test_research_notebooks_are_copied_whole_and_never_over_work(tmp_path: Path) -> None:
    paths = research(tmp_path)
    assert [path.stem for path in paths] == [
        "circuits",
        "estimators",
        "features",
        "patching",
        "smollm2",
        "steering",
    ]
    assert all(nbformat.read(path, as_version=4).cells for path in paths)
    with pytest.raises(ValueError, match=r"already has circuits.ipynb, .*with somebody's work"):
        research(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lab01.txt", "", "must end in .ipynb or .py"),
        ("lab01.ipynb", "{", "cannot be read"),
        ("mine.py", "x = 1", "is of no lab"),
        ("lab01.ipynb", "[]", None),
    ],
)
def test_files_that_are_no_copies(name: str, text: str, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    if message is None:
        assert read_copy(path)[1] == []
        return
    with pytest.raises(ValueError, match=message):
        read_copy(path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [number for number in labs() if number != "08"])
def test_the_teachers_copy_runs(number: str) -> None:
    code = [cell.text for cell in cells_for(labs()[number], teacher=True) if not cell.is_text]
    namespace, errors = run_cells(code)
    assert errors == []
    assert {name: namespace[name] for name in labs()[number].answers} == labs()[number].answers
    holds(number, namespace)


def holds(number: str, seen: dict) -> None:
    """The finding of a lab, as numbers."""
    if number == "01":
        assert seen["apart"] < 1e-5 * float(seen["effects"].abs().max())
        share = seen["normalised"](seen["effects"], seen["clean"], seen["corrupt"])
        assert share[1:, -1].min() > 0.95
    if number == "02":
        assert seen["apart"] < 1e-4
        assert seen["relative"] > 10 * seen["pair"][1]  # the last pair is of integrated gradients
        assert seen["estimate"][seen["layer"], seen["pos"]] < seen["truth"][seen["layer"], seen["pos"]]
    if number == "03":
        assert max(seen["lacks"]["rules"]) < 1e-4 < 0.1 < max(seen["lacks"]["plain"])
        assert seen["table"]["mlp_out", "relp"] < seen["table"]["mlp_out", "atp"]
        assert "no gradient reaches" in seen["refused"]
    if number == "04":
        assert seen["kept"] == seen["truth"]
        assert len(seen["kept"]) == 6
        assert max(seen["without"].values()) < 0.95
        assert seen["value"] > seen["reached"].max()
        assert len(seen["spare"] & {"a0.h0->m0", "a0.h1->m0"}) == 1
    if number == "05":
        assert seen["nothing"].norm() < 1e-4 < 1 < seen["direction"].norm()
        controls = [effect for what, effect in seen["at_equal_cost"].items() if what != "yours"]
        assert seen["at_equal_cost"]["yours"] > max(controls)
    if number == "06":
        assert list(seen["moved"].values()) == pytest.approx([5.0, 1.0, 1.0, 5.0])
        only_zero = seen["damage"]["zero"].sel(layer=1, head=6) - seen["damage"]["mean"].sel(layer=1, head=6)
        assert float(only_zero) > 1
        assert float(seen["away"]["noise of 3 sd"].mean()) > 2 * float(seen["away"]["corrupt prompts"].mean())
        assert seen["alone"] > 30 > 10 > seen["corrected"]
        assert seen["friends"] > 20 > 10 > seen["by_pair"]
    if number == "07":
        assert seen["scores"]["induction"][0, 0, 0] > 0.99 < seen["scores"]["induction"][1, 1, 0]
        assert seen["heard"][0] > 0.1 > seen["heard"][1]
        assert int(seen["test"]["rank"]) == 1


@pytest.mark.slow
def test_lab_08_goes_on_without_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the model it takes a minute: `interp labs copy` and `check` run it by hand."""
    load = interp.load

    def without(name: str) -> Any:
        if name == "smollm2-135m":
            raise ValueError("not fetched")
        return load(name)

    monkeypatch.setattr(interp, "load", without)
    seen, errors = run_cells(cell.text for cell in cells_for(labs()["08"], teacher=True) if not cell.is_text)
    assert errors == []
    assert seen["model"].cfg.n_layers == 3
    assert {name: seen[name] for name in labs()["08"].answers} == labs()["08"].answers
    assert seen["top"][0] == (0, 0)
    _, low, high = seen["verified"]["L0H0"]
    assert 0 < low < high


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seed"), [("01", 5), ("05", 17)])
def test_another_seed_is_another_task_with_the_same_finding(number: str, seed: int) -> None:
    cells = cells_for(labs()[number], teacher=True, seed=seed)
    namespace, errors = run_cells(cell.text for cell in cells if not cell.is_text)
    assert errors == []
    assert f"SEED = {seed}" in cells[2].text
    holds(number, namespace)
