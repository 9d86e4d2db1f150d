"""What a command says and where it writes: lines for people, or one JSON object for scripts.

Results go to standard output, everything else to standard error. With --json, standard output holds one
object and nothing else; what would have been said there goes to standard error. With --quiet only paths of
files, warnings and errors are said. With --log all of it goes to a file as well.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO


class Output:
    """What a command has to tell: lines as they come, facts and paths for the object at the end."""

    def __init__(self, command: str, args: argparse.Namespace) -> None:
        self.command, self.as_json, self.quiet = command, args.json, args.quiet
        self.facts: dict[str, Any] = {}
        self.files: dict[str, Path] = {}
        self.status = 0
        self._log: Path | None = None

    def log_to(self, path: Path) -> None:
        """Add all that is said from here to a file as well. Raises ValueError where it cannot be written."""
        require_file(path, "--log")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise ValueError(f"--log {path} cannot be written: {error.strerror or error}.") from None
        self._log = path

    def say(self, *lines: object) -> None:
        """Lines for people."""
        for line in lines:
            self._write(str(line), None if self.quiet else sys.stderr if self.as_json else sys.stdout)

    def wrote(self, name: str, path: Path) -> None:
        """A file that the command has written: its path is a line of its own."""
        self.files[name] = path
        self._write(str(path), None if self.as_json else sys.stdout)

    def tell(self, **facts: Any) -> None:
        """Facts for scripts."""
        self.facts |= facts

    def finish(self) -> None:
        """Write the object, if there is to be one."""
        if self.as_json:
            print(as_json({"command": self.command, **self.facts, "files": self.files}))

    def complain(self, kind: str, message: object) -> None:
        """One line on standard error."""
        self._write(f"interp: {kind}: {_line(message)}", sys.stderr)

    def fail(self, message: object) -> None:
        """One line on standard error; the object says it too."""
        self.complain("error", message)
        if self.as_json:
            print(as_json({"command": self.command, "error": _line(message)}))

    def _write(self, line: str, stream: TextIO | None) -> None:
        if stream is not None:
            print(line, file=stream)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                print(line, file=file)


def as_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON: numbers of numpy as Python's, a NaN as null, paths as text."""
    return json.dumps(_plain(value), allow_nan=False, indent=indent)


def _line(message: object) -> str:
    return " ".join(str(message).split())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else str(value)


def require_folder(folder: Path, option: str = "--out") -> None:
    """Raise ValueError unless files can be written into a folder, which need not exist yet."""
    there = _nearest(folder)
    if not there.is_dir():
        raise ValueError(f"{option} {folder}: {there} is a file. Give a folder.")
    _require_room(there, f"{option} {folder}")


def require_file(path: Path, option: str = "--out") -> None:
    """Raise ValueError unless a file can be written under a path."""
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder. Give the name of a file.")
    require_folder(path.parent, option)


def require_store(path: Path | None) -> None:
    """Raise ValueError unless a store can be made at a path, or is there."""
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise ValueError(f"--store {path} is a file; a store is a folder.")
    require_folder(path, "--store")


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first one above it that exists."""
    return next(part for part in (folder, *folder.absolute().parents) if part.exists())


def _require_room(folder: Path, what: str) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".interp-"):
            pass
    except OSError as error:
        raise ValueError(f"{what} cannot be written: {error.strerror or error} ({folder}).") from None
