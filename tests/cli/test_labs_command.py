"""`interp labs`: copies, and the checks of one copy."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from interp.cli import main
from interp.labs import Wrong, check, labs


def test_list_names_every_lab_and_its_exercises(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labs", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["labs"]
    assert [row["number"] for row in rows] == list(labs())
    assert "logit_diff" in rows[0]["exercises"]


def test_copy_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mary"
    assert main(["labs", "copy", str(folder), "--lab", "1", "--seed", "4"]) == 0
    path = folder / "lab01_patching.ipynb"
    assert capsys.readouterr().out.splitlines() == [str(path)]
    assert main(["labs", "copy", str(folder), "--lab", "1"]) == 2
    assert "perhaps with somebody's work" in capsys.readouterr().err
    assert main(["labs", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "0 of 4 exercises" in said
    assert "logit_diff: not written yet" in said


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["check", str(tmp_path / "none.py")], ["copy", str(tmp_path), "--lab", "99"]):
        assert main(["labs", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be read" in line or "there is no lab" in line


def test_the_commands_of_the_teachers_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "teaching.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    bodies = re.findall(r"(<!-- no-test[^\n]*\n)?```sh\n(.*?)```", page, re.S)
    lines = [line.split("#")[0] for skip, body in bodies if not skip for line in body.splitlines()]
    assert len(lines) == 7
    for line in lines:
        assert main(shlex.split(line)[1:]) in (0, 1), line  # 1: the doctor has something to say
    assert len(list((tmp_path / "class").rglob("*.ipynb"))) == 3 * len(labs())
    with pytest.raises(Wrong) as caught:
        check.logit_diff.judge(lambda logits, answer, wrong, positions: logits.sum() * 0 + 4.0)
    for line in str(caught.value).splitlines()[:2]:
        assert line in page
    for lab in labs().values():
        for question, choice in lab.answers.items():
            if question not in ("bug", "finding"):
                assert f"`{question}` {choice}" in page
        assert f"| {lab.number} " in page
