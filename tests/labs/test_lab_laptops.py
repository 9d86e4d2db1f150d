"""`doctor` says what is good and what to do; `bundle` lays out a folder, with a downloader that is not
pip.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from interp.cli import main
from interp.labs import _bundle, _doctor, bundle, doctor, labs

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def test_the_doctor_looks_at_everything() -> None:
    findings = {finding.what: finding for finding in doctor(picture=False)}
    assert next(iter(findings)) == "Python"
    assert {"torch", "notebooks", "memory", "disk", "browser"} <= set(findings)
    assert findings["Python"].good
    assert findings["torch"].good
    assert all(str(finding).startswith("✓") == finding.good for finding in findings.values())


def test_a_thing_that_is_missing_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_doctor, "_version", lambda name: None)
    monkeypatch.setattr(_doctor, "free_memory", lambda: 2**30)
    said = [str(finding) for finding in doctor(picture=False)]
    assert "✗ torch: missing. Run the install script of the bundle again." in said
    assert any("1.0 GiB free. Close other programs" in line for line in said)


def test_a_first_picture_that_fails_is_quoted() -> None:
    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", "Traceback\nImportError: no torch\n")

    assert str(_doctor._picture(run)) == "✗ first picture: none. Python said: ImportError: no torch"


def test_a_first_picture_says_what_of_its_time_is_an_import() -> None:
    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "a notice\n7.6\n", "")

    assert str(_doctor._picture(run)) == "✓ first picture: in 0 seconds, of which 8 import TransformerLens"


def downloader(wheels: Path, calls: list[list[str]]) -> _bundle.Run:
    def run(arguments: Sequence[str]) -> None:
        calls.append(list(arguments))
        own = arguments[0] == "wheel" and "--constraint" not in arguments
        name = "interp_workbench-9-py3-none-any.whl" if own else "torch-9.whl"
        (wheels / name).write_bytes(b"")

    return run


def test_a_bundle_holds_wheels_labs_and_how_to_install(tmp_path: Path) -> None:
    folder, calls = tmp_path / "bundle", list[list[str]]()
    bundle(folder, platform="win_amd64", python="3.12", run=downloader(folder / "wheels", calls))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {"README.txt", "install.sh", "install.ps1", "constraints.txt", "wheels/torch-9.whl"}
    assert {f"labs/{lab.name}.ipynb" for lab in labs().values()} <= names
    assert {f"notebooks/{path.name}" for path in NOTEBOOKS.glob("*.ipynb")} <= names
    assert len((folder / "README.txt").read_text().splitlines()) == 5
    assert "Python 3.12" in (folder / "README.txt").read_text()
    build, *missing, fetch = calls
    assert build[0] == "wheel"
    assert [call[-1] for call in missing] == [name for name in _bundle.SOURCE_ONLY if _bundle._has(name)]
    options = dict(itertools.pairwise(fetch))
    assert (options["--platform"], options["--python-version"]) == ("win_amd64", "3.12")
    assert options["--extra-index-url"] == _bundle.CPU
    pinned = (folder / "constraints.txt").read_text()
    assert "torch==" in pinned
    assert "+cpu" not in pinned
    assert "--no-index" in (folder / "install.sh").read_text()
    assert subprocess.run(["sh", "-n", str(folder / "install.sh")]).returncode == 0


def test_both_scripts_do_the_same_and_each_step_of_windows_is_a_line_of_its_own() -> None:
    """PowerShell goes on after a command that failed, so every one is followed by a look at its status."""
    windows = _bundle.INSTALL_PS1.splitlines()
    (unix,) = (line for line in _bundle.INSTALL_SH.splitlines() if "pip install" in line)
    at = next(number for number, line in enumerate(windows) if "pip install" in line)
    assert windows[at].replace("env\\Scripts\\python", "env/bin/python") == unix
    assert windows[at + 1] == "if ($LASTEXITCODE) { exit $LASTEXITCODE }"
    assert windows[-1] == "env\\Scripts\\python -m interp labs doctor"
    for opening, closing in ("()", "{}"):
        assert _bundle.INSTALL_PS1.count(opening) == _bundle.INSTALL_PS1.count(closing)


def test_the_wheel_is_told_to_hold_labs_and_every_notebook() -> None:
    project = (NOTEBOOKS.parent / "pyproject.toml").read_text(encoding="utf-8")
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert f'"notebooks/{path.name}" = "interp/_data/notebooks/{path.name}"' in project


def test_a_bundle_that_cannot_be_made_is_said_before_anything(tmp_path: Path) -> None:
    calls: list[list[str]] = []
    with pytest.raises(ValueError, match="neither a wheel nor a checkout"):
        bundle(tmp_path / "new", source=tmp_path, run=downloader(tmp_path, calls))
    with pytest.raises(ValueError, match="interp models get gpt2"):
        bundle(tmp_path / "new", models=["gpt2"], run=downloader(tmp_path, calls))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "work.txt").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        bundle(tmp_path / "full", run=downloader(tmp_path, calls))
    assert not calls
    assert not (tmp_path / "new").exists()


def test_the_command_of_the_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labs", "doctor", "--no-picture"]) in (0, 1)
    assert "Python" in capsys.readouterr().out
