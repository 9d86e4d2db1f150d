"""Files appear whole, or the old one stays and nothing else is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from interp.atomic import whole, write_text


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
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with whole(tmp_path / "numbers.bin") as unfinished:
            unfinished.write_bytes(b"3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
