"""One process at a time on a store, wherever the others are.

The lock is the operating system's, on a file beside the store: it ends with its process, however that ends.
Some file systems know no locks of other machines: there the file's time, that its holder renews, says whether
a holder on another machine is alive. Nothing that another process made is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from interp.files import target

_BEAT, _DEAD = 10.0, 60.0  # seconds between two signs of life, and without one until a holder counts as dead


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the store at a path alone. Raises ValueError, naming the holder, where another process has it."""
    lock = _lock_of(path)
    with _taken(lock, path) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        with _beating(lock):
            yield


def _taken(lock: Path, path: Path) -> TextIO:
    """The lock's file, open and held; a file that its last holder removed as we opened it holds nothing."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error}. Choose another path.") from None
        file.seek(0)
        holder = file.read().strip()
        if not _take(file):
            file.close()
            raise ValueError(
                f"{path} is being written by {holder or 'another process'}. Wait for it to end, or choose "
                "another path."
            )
        if _still_there(file):
            break
        file.close()
    if (age := _beat_of_another(lock, holder)) < _DEAD:
        file.close()
        raise ValueError(
            f"{path} is being written by {holder}, which was there {age:.0f} s ago. Wait for it to end, "
            f"or choose another path; if it has died, try again {_DEAD:.0f} s after that."
        )
    return file


@contextlib.contextmanager
def _beating(lock: Path) -> Iterator[None]:
    """Renew the time of a lock while the block runs, and remove it then."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(lock)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(OSError):
            lock.unlink()


def _lock_of(path: Path) -> Path:
    """Beside what the path means: a store and a link to it have one lock."""
    path = target(path)
    return path.with_name(f".{path.name}.lock")


def _beat_of_another(lock: Path, holder: str) -> float:
    """Seconds since a holder on another machine gave a sign, by the clock of the files; inf for none."""
    if not holder or holder.endswith(f" on {socket.gethostname()}"):
        return float("inf")
    with tempfile.NamedTemporaryFile(dir=lock.parent, prefix=f"{lock.name}.") as now:
        return os.stat(now.name).st_mtime - lock.stat().st_mtime


def _take(file: TextIO) -> bool:
    """Lock an open file without waiting; whether this process has it."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # no locks on this file system
    return True


def _still_there(file: TextIO) -> bool:
    with contextlib.suppress(OSError):
        return os.fstat(file.fileno()).st_ino == os.stat(file.name).st_ino
    return False


def holder_of(path: Path) -> str:
    """Who holds the lock of a store, without taking it; "" for nobody."""
    try:
        with _lock_of(path).open(encoding="utf-8") as file:
            holder = file.read().strip()
    except OSError:
        return ""
    here = holder.endswith(f" on {socket.gethostname()}")
    alive = _alive(holder) if here else _beat_of_another(_lock_of(path), holder) < _DEAD
    return holder if alive else ""


def _alive(holder: str) -> bool:
    """Whether a process of this machine runs, by its number in the text of a lock."""
    number = holder.split(" ")[1] if holder.count(" ") >= 3 else ""
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # another user's
        return True
    return True
