"""Files appear whole, or the old one stays and nothing else is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from interp.files import whole, write_text


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
