"""The files of this package: where the bundled data lies, and files that are written whole or not at all.

A file is written under a temporary name beside its path, then renamed. It gets the rights that the umask
gives any new file, or those of the file that it replaces; where the path is a symbolic link, the link stays
and what it points to is replaced.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside the path, which takes the path's place when the block ends without an error."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # less what the umask takes
    rights = (path.stat() if path.is_file() else os.fstat(handle)).st_mode & 0o777
    os.close(handle)
    try:
        yield unfinished
        unfinished.chmod(rights)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, in UTF-8."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def data_dir() -> Path:
    """The folder of the bundled models and task files: `data/` in a checkout, `interp/_data/` in a wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "_data", package.parent / "data"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"the bundled data is missing: neither {package / '_data'} nor {package.parent / 'data'} exists. "
        "Reinstall the package, or run from a full checkout."
    )
