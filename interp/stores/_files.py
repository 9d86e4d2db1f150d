"""Stores of one file: decisions in order as JSON lines, and the whole state of a training as safetensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp._locks import locked
from interp.files import file_at, whole, write_text
from interp.stores._identity import Identity, foreign, plain, require_same

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class LogStore:
    """An open file of JSON lines: the entries that it held, and where further ones go."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    written: int = 1  # lines of the file, with its head

    def append(self, line: Mapping[str, Any]) -> None:
        """Write an entry, and see that it is on the disk."""
        text = json.dumps(dict(line))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(self.written + 1, text))
            file.flush()
            os.fsync(file.fileno())
        self.written += 1


@contextlib.contextmanager
def open_log(path: str | Path | None, kind: str, identity: Identity) -> Iterator[LogStore | None]:
    """Open the log of a run, or make it; None for no path. `kind` names the verb.

    An entry that a kill cut short is dropped. Raises ValueError, and changes nothing, if the file holds
    another run, something else, or a damaged entry, or is in use.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    file_at(path)
    with locked(path):
        if not path.exists() or path.stat().st_size == 0:
            head = json.dumps({"kind": kind, **plain(identity)})
            write_text(path, _line(1, head))
        text = path.read_bytes()
        complete = text[: text.rfind(b"\n") + 1]  # what comes after it, a kill cut short
        head, *lines = _entries(path, complete, kind)
        require_same(path, head, {"kind": kind, **plain(identity)})
        if len(complete) < len(text):
            write_text(path, complete.decode("utf-8"))
        yield LogStore(path, lines, 1 + len(lines))


def _entries(path: Path, text: bytes, kind: str) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        try:
            check, _, body = line.decode("utf-8").partition(" ")
            entry = json.loads(body)
            if number == 1 and entry["kind"] != kind:
                raise ValueError(f"it is one of {entry['kind']}")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            if number == 1:
                raise foreign(path, kind) from error
            raise _damaged(path, number) from error
        if check != _check(number, body):
            raise _damaged(path, number)
        entries.append(entry)
    if not entries:
        raise foreign(path, kind)
    return entries


def _damaged(path: Path, number: int) -> ValueError:
    return ValueError(
        f"{path}: line {number} is damaged. Delete it and all lines after it to go on from there, or choose "
        "another path; nothing was changed."
    )


def _line(number: int, text: str) -> str:
    return f"{_check(number, text)} {text}\n"


def _check(number: int, text: str) -> str:
    """Of a line where it stands: lines lost or exchanged are damage too."""
    return hashlib.blake2b(f"{number} {text}".encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, eq=False)
class StateStore:
    """An open safetensors file that is replaced, whole, at every save."""

    path: Path
    identity: dict[str, Any]
    tensors: dict[str, Tensor] | None  # what it held

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the state, whole or not at all."""
        from safetensors.torch import save_file

        told = {"run": json.dumps(self.identity, sort_keys=True), "sum": _sum_of(tensors)}
        with whole(self.path) as path:
            save_file(dict(tensors), path, metadata=told)


@contextlib.contextmanager
def open_state(path: str | Path | None, kind: str, identity: Identity) -> Iterator[StateStore | None]:
    """Open the state of a run, or prepare to write it; None for no path. `kind` names the verb.

    Raises ValueError, and changes nothing, if the file holds another run, something else, or is damaged or
    in use.
    """
    if path is None:
        yield None
        return
    path = Path(path)
    file_at(path)
    here = {"kind": kind, **plain(identity)}
    with locked(path):
        tensors = None
        if path.exists() and path.stat().st_size:
            there, tensors = _read_state(path, kind)
            require_same(path, there, here)
        yield StateStore(path, here, tensors)


def _read_state(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            identity, total = json.loads(told["run"]), told["sum"]
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise foreign(path, kind, error) from error
    if total != _sum_of(tensors):
        raise ValueError(f"{path} is damaged. Choose another path; nothing was changed.")
    return identity, tensors


def _sum_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def entries_of(path: Path) -> tuple[dict[str, Any], int]:
    """The run of a log and how many entries it has, or the run of a state, which is one."""
    try:
        head, *lines = path.read_bytes().split(b"\n")[:-1]
        run = json.loads(head.decode("utf-8").partition(" ")[2])
        return {"kind": run["kind"], **run}, len(lines)
    except (ValueError, LookupError, TypeError):
        identity, _ = _read_state(path, "interp")
        return identity, 1
