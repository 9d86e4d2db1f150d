"""Files appear whole, or the old one stays and nothing else is left."""

from __future__ import annotations

import os
from pathlib import Path

import plotly.graph_objects as go
import pytest

import interp
from interp import circuits
from interp.files import whole, write_text

VERBS = ["patch", "acdc", "train_mask", "report.save", "report.write", "to_file", "save", "export"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "page.html", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "numbers.bin"
    with whole(path) as unfinished:
        unfinished.write_bytes(b"12")
        assert not path.exists()
    assert path.read_bytes() == b"12"


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_obeys_the_umask_and_an_old_one_keeps_its_rights(
    tmp_path: Path, umask: int, rights: int
) -> None:
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "a.txt", "new")
        assert path.stat().st_mode & 0o777 == rights
        path.chmod(0o640)
        assert write_text(path, "newer").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    target = write_text(tmp_path / "there" / "a.txt", "old")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole(tmp_path / "numbers.bin") as unfinished:
            unfinished.write_bytes(b"3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def model():
    return interp.load("tiny-ioi")


def writers(model, where: Path) -> dict:
    """What writes a file or a folder, by name."""
    task = interp.tasks.ioi(model, n=2, seed=0)
    items = {"a": go.Figure()}
    return {
        "patch": lambda: interp.patch(model, task, "z", store=where, progress=False),
        "acdc": lambda: circuits.acdc(model, task, 0.1, store=where, progress=False),
        "train_mask": lambda: circuits.train_mask(model, task, steps=1, store=where, progress=False),
        "report.save": lambda: interp.report.save(where, items, claim="x"),
        "report.write": lambda: interp.report.write(["a"], f"{where}.html"),
        "to_file": lambda: task.to_file(model, f"{where}.jsonl"),
        "save": lambda: interp.models.save(model, str(where), source="tiny-ioi"),
        "export": lambda: interp.models.export(model, where),
    }


def tree(folder: Path) -> set[tuple[str, bool, bool]]:
    return {(path.name, path.is_symlink(), path.is_fifo()) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["there", "there/run", "file/run", "x" * 256, "pipe"])
@pytest.mark.parametrize("verb", VERBS)
def test_where_nothing_can_be_written_is_said_and_left(verb: str, name: str, model, tmp_path: Path) -> None:
    """Links that lead back to themselves, below a file, names that are too long, what is no file."""
    for suffix in ("", ".html", ".jsonl"):
        (tmp_path / f"there{suffix}").symlink_to(f"back{suffix}")
        (tmp_path / f"back{suffix}").symlink_to(f"there{suffix}")
        os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"Choose another|must be the path|is a file|exists already"):
        writers(model, tmp_path / name)[verb]()
    assert tree(tmp_path) == before
