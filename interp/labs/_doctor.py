"""Whether this computer is ready for the labs: one line a thing, good or with what to do.

Nothing here needs a network. The last line makes a picture, as a student's first cell would.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("torch", "transformer-lens", "transformers", "xarray", "plotly", "h5netcdf", "scipy", "nbformat")
NOTEBOOKS = ("jupyterlab", "notebook")  # either shows the labs
MEMORY, DISK = 3 * 2**30, 1 * 2**30
# The four lines of the README; the import of TransformerLens, which they do too, stands apart to be timed.
FIRST_PICTURE = """\
import time
start = time.monotonic()
import transformer_lens
print(time.monotonic() - start)
import interp
model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n=64, seed=0)
interp.plot.heads(interp.patch(model, task, "z", progress=False), interval=0.95).write_html("heads.html")
"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "firefox", "msedge", "safari")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was seen, and, where it is not good, what to do."""

    what: str
    seen: str
    todo: str = ""

    @property
    def good(self) -> bool:
        """Whether there is nothing to do."""
        return not self.todo

    def __str__(self) -> str:
        return f"{'✓' if self.good else '✗'} {self.what}: {self.seen}{'' if self.good else f'. {self.todo}'}"


def doctor(folder: str | Path = ".", *, picture: bool = True) -> Iterator[Finding]:
    """Look at Python, packages, notebooks, memory, disk, browser and, last, the time to the first picture.

    folder: where the labs will be. picture: make one, in a process of its own.

    Example:
        >>> from interp.labs import doctor
        >>> next(doctor(picture=False)).what
        'Python'
    """
    yield _python()
    yield from (_package(name) for name in PACKAGES)
    yield _notebooks()
    yield _memory()
    yield _disk(Path(folder))
    yield _browser()
    if picture:
        yield _picture()


def _python() -> Finding:
    seen = sys.version.split()[0]
    good = sys.version_info >= (3, 10)
    return Finding("Python", seen, "" if good else "Install Python 3.10 or later from python.org.")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    seen = _version(name)
    return Finding(name, seen or "missing", "" if seen else "Run the install script of the bundle again.")


def _notebooks() -> Finding:
    seen = next((f"{name} {version}" for name in NOTEBOOKS if (version := _version(name))), None)
    todo = "pip install notebook, or open the .ipynb in an editor that shows notebooks (VS Code)."
    return Finding("notebooks", seen or "neither jupyterlab nor notebook", "" if seen else todo)


def _memory() -> Finding:
    have = free_memory()
    if have is None:
        return Finding("memory", "not known on this system; 3 GiB free are enough")
    todo = "" if have >= MEMORY else "Close other programs: the labs want 3 GiB free (lab 08 a little more)."
    return Finding("memory", f"{have / 2**30:.1f} GiB free", todo)


def free_memory() -> int | None:
    """Bytes that a new process can have, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        return _windows_memory()
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _windows_memory() -> int | None:
    """What GlobalMemoryStatusEx calls available physical memory."""
    import ctypes

    status = (ctypes.c_ulonglong * 8)()
    ctypes.memmove(status, ctypes.byref(ctypes.c_ulong(64)), 4)  # its first field is its own length
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009
    return int(status[2]) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def _disk(folder: Path) -> Finding:
    there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    free = shutil.disk_usage(there).free
    todo = "" if free >= DISK else "Make room: 1 GiB is enough."
    return Finding("disk", f"{free / 2**30:.1f} GiB free", todo)


def _browser() -> Finding:
    if sys.platform in ("win32", "darwin"):
        return Finding("browser", "comes with the system")
    seen = next((name for name in BROWSERS if shutil.which(name)), None)
    todo = "Install any browser: notebooks and pictures are shown in one."
    return Finding("browser", seen or "none found", "" if seen else todo)


def _picture(
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run, code: str = FIRST_PICTURE
) -> Finding:
    """The first picture of a student, from a new process to a file."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as empty:
        done = run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=empty, capture_output=True, text=True, env=environment,
        )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return Finding("first picture", "none", f"Python said: {last}")
    lens = float(done.stdout.split()[-1])
    whole = time.monotonic() - start
    return Finding("first picture", f"in {whole:.0f} seconds, of which {lens:.0f} import TransformerLens")
