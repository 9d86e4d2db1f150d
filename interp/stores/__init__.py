"""Stores: what long work is written to as it goes, and from which the same call goes on after a kill.

| store        | format             | for                                            |
|--------------|--------------------|------------------------------------------------|
| `ArrayStore` | a zarr folder      | arrays filled part by part (`interp.patch`)    |
| `LogStore`   | JSON lines         | decisions in order (`circuits.acdc`)           |
| `StateStore` | safetensors        | the whole state of a training (`train_mask`)   |

All three know which run they belong to (an identity) and refuse another one, changing nothing. All are
locked while they are open: a second process is refused with the first one's host and process id, and a lock
goes with the process that held it. Every part carries a checksum: what was lost or damaged is done again.
Nothing that another process made is ever removed. `status` says how far a store has come.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp._locks import holder_of
from interp.stores._arrays import ArrayStore as ArrayStore
from interp.stores._arrays import identity_of, units_of
from interp.stores._arrays import open_arrays as open_arrays
from interp.stores._files import LogStore as LogStore
from interp.stores._files import StateStore as StateStore
from interp.stores._files import entries_of
from interp.stores._files import open_log as open_log
from interp.stores._files import open_state as open_state


@dataclass(frozen=True)
class Status:
    """What a store holds, and who writes it."""

    path: Path
    kind: str
    done: int  # units of a sweep, batches of a search, saves of a training
    total: int | None  # None where nobody can know
    holder: str  # who writes it now; "" for nobody
    changed: float  # seconds since the last write
    run: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done == self.total

    def __str__(self) -> str:
        share = f" of {self.total} units" if self.total is not None else " entries"
        state = "finished" if self.finished else self.holder or "nobody writes it; the same call resumes"
        writer = f"written by {state}" if self.holder and not self.finished else state
        return f"{self.path}: {self.kind}, {self.done}{share}; {writer}; last change {self.changed:.0f} s ago"


def status(path: str | Path) -> Status:
    """How far the store at a path has come. Nothing is locked, read as numbers, or changed.

    Raises ValueError for what is no store.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no {path}. Give the path that store= had.")
    if path.is_dir():
        run = identity_of(path)
        done, total = units_of(path)
        kind = str(run["method"])
        last = max(each.stat().st_mtime for each in path.rglob("*"))
    else:
        last, total = path.stat().st_mtime, None
        run, done = entries_of(path)
        kind = str(run["kind"])
    return Status(path, kind, done, total, holder_of(path), max(0.0, time.time() - last), run)
