"""`summary.json`: what a command was asked, on what, and what came out, beside the files that it wrote.

Scripts read it, `interp.open` reads it, and with --resume a finished run is known again by it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.cli._output import Output, as_json
from interp.files import SUMMARY, write_text

_FRAME = ("command", "line", "arguments", "run", "finished", "seconds", "versions", "files")
_HOW = (  # what never changes numbers
    "batch_size", "json", "loaded", "log", "memory", "out", "plan", "quiet", "resume", "run",
    "scheduler", "store", "traceback", "workers",
)  # fmt: skip
_PAGES = ("report", "explore")  # commands that write a page among others
_TEXT = 65_536  # bytes: a folder's files up to this are read, of larger ones size and time are taken


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked that can change numbers."""
    return {name: value for name, value in sorted(vars(args).items()) if name not in _HOW}


def identity(args: argparse.Namespace) -> str:
    """The same for runs of the same arguments on the same files; by it a finished run is known again."""
    digest = hashlib.sha256()
    for name, value in arguments(args).items():
        digest.update(f"{name}={as_json(value)};".encode())
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str | Path) and str(each) and Path(each).exists():
                digest.update(_stamp(Path(each)))
    return digest.hexdigest()


def _stamp(path: Path) -> bytes:
    """What changes when a file, or one of a folder's files, does."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).digest() if path.stat().st_size <= _TEXT else _size(path)
    return b"".join(_size(each) for each in sorted(path.rglob("*")) if each.is_file())


def _size(path: Path) -> bytes:
    known = path.stat()
    return f"{path.name}:{known.st_size}:{known.st_mtime_ns};".encode()


def write(args: argparse.Namespace, out: Output, line: str, seconds: float) -> None:
    """Write it into the folder of the command's last file, if the command wrote one just now."""
    if not out.files or out.facts.get("resumed"):
        return
    from interp.results import made_now

    folder = list(out.files.values())[-1].parent
    path = _path(args, folder)
    summary = {
        "command": out.command,
        "line": line,
        "arguments": arguments(args),
        "run": args.run,
        "seconds": round(seconds, 2),
        **made_now(),
        **out.facts,
        "files": {name: _relative(file, folder) for name, file in out.files.items()},
    }
    write_text(path, as_json(summary, indent=1) + "\n")
    out.files["summary"] = path


def repeated(args: argparse.Namespace, folder: Path, out: Output) -> bool:
    """With --resume, whether this very run is finished in the folder; then say again what it told."""
    if not args.resume or (known := _finished(_path(args, folder), args.run)) is None:
        return False
    out.say(f"done before, in {known['seconds']:g} s; nothing was computed")
    out.tell(**{name: value for name, value in known.items() if name not in _FRAME}, resumed=True)
    for name, file in known["files"].items():
        out.wrote(name, folder / file)
    return True


@contextmanager
def unfinished(args: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """Where a run writes as it goes: by its arguments; gone when the block has ended well."""
    store = folder / f"unfinished-{args.run[:12]}.zarr"
    yield store
    shutil.rmtree(store, ignore_errors=True)


def _finished(path: Path, run: str) -> dict[str, Any] | None:
    """The summary of a finished run of this identity whose files are all there, else None."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(known, dict) and known.get("run") == run and isinstance(known.get("files"), dict)
    return known if same and all((path.parent / file).exists() for file in known["files"].values()) else None


def _path(args: argparse.Namespace, folder: Path) -> Path:
    """One a folder, and one a verb where verbs share a folder."""
    shared = getattr(args, "verb", None) or (args.command if args.command in _PAGES else None)
    return folder / (f"{shared}-{SUMMARY}" if shared else SUMMARY)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
