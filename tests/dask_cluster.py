"""A Dask cluster on this machine whose processes can be killed one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


class Cluster:
    """A scheduler and workers, each a process of its own, that import what they need at once."""

    def __init__(self, folder: Path, n_workers: int = 2) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.file.unlink(missing_ok=True)
        options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        self.scheduler = self.start("scheduler", *options)
        deadline = time.monotonic() + 60
        while not (self.file.exists() and self.file.read_text().strip().endswith("}")):
            assert time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(n_workers):
            self.add_worker()

    def add_worker(self) -> None:
        options = ("--nthreads", "1", "--no-nanny", "--preload", "interp.patching._sweep")
        self.workers.append(self.start("worker", self.address, *options))

    def start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{what}.log").open("ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *options]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=environment())

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
