"""Two Dask workers against one process on a sweep of about a minute, and sweeps in which something is killed.

    python benchmarks/cluster.py speed            # SmolLM2-135M; --model tiny-ioi without it
    python benchmarks/cluster.py kills            # worker, driver, scheduler: ten random moments each

Everything runs on this machine. Results must be those of one process bit for bit, after every kill as well.
Writes benchmarks/results/cluster-speed.json and cluster-kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import interp
from interp import stores, workers
from interp.patching import _units

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "tests"))
from dask_cluster import Cluster, environment  # noqa: E402

BY = ("layer", "pos", "head")
SMALL = 1e7  # FLOPs of a unit in the trials: many units in a short sweep
DRIVER = """
import interp
from interp.patching import _units
_units._FLOPS["cpu"], _units._ROWS = {small}, 1
model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n={n}, seed=0)
print("ready", flush=True)
interp.patch(model, task, "z", by={by}, store={path!r}, executor={address!r}, progress=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("speed", "kills"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--n", type=int, help="prompts (speed: 24, kills: 64)")
    parser.add_argument("--trials", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = speed(args, Path(folder)) if args.what == "speed" else kills(args, Path(folder))
    row |= {"cores": os.cpu_count(), "versions": interp.results.versions()}
    path = RESULTS / f"cluster-{args.what}.json"
    path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row, indent=1), path, sep="\n")


def timed(run: Callable[[], xr.Dataset]) -> tuple[xr.Dataset, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One process with one thread and with all, against two workers of one thread each, all warm."""
    model = interp.load(args.model)
    task = interp.tasks.ioi(model, n=args.n or 24, seed=0)
    patch = lambda task, **options: interp.patch(model, task, "z", progress=False, **options)  # noqa: E731
    row: dict[str, Any] = {"model": args.model, "prompts": len(task), "tokens": task.clean.shape[1]}
    threads = max(2, torch.get_num_threads())
    for n in (1, threads):
        torch.set_num_threads(n)
        patch(task[:2])  # the trust check, once
        row[f"one process, {n} thread(s), s"] = (alone := timed(lambda: patch(task)))[1]
        if n == 1:
            one = alone[0]
    torch.set_num_threads(1)
    cluster = Cluster(folder)
    try:
        first, row["two workers that have yet to load, s"] = timed(
            lambda: patch(task, executor=cluster.address)
        )
        both, row["two workers, s"] = timed(lambda: patch(task, executor=cluster.address))
    finally:
        cluster.close()
    row["equal bit for bit"] = bool(one.identical(both) and one.identical(first))
    row["times faster than one thread"] = row["one process, 1 thread(s), s"] / row["two workers, s"]
    return row


class Trials:
    """A sweep of tiny-ioi in many units, again and again, while something is killed."""

    def __init__(self, folder: Path, n: int) -> None:
        _units._FLOPS["cpu"], _units._ROWS = SMALL, 1
        self.model = interp.load("tiny-ioi")
        self.task = interp.tasks.ioi(self.model, n=n, seed=0)
        self.folder, self.number, self.random = folder, 0, random.Random(0)
        self.cluster = Cluster(folder)
        self.whole = self.patch(None)
        self.patch(self.cluster.address)  # the workers load
        start = time.perf_counter()
        self.patch(self.cluster.address)
        self.seconds = time.perf_counter() - start

    def patch(self, executor: str | None, store: Path | None = None) -> xr.Dataset:
        return interp.patch(self.model, self.task, "z", by=BY, store=store, executor=executor, progress=False)

    def store(self) -> Path:
        self.number += 1
        return self.folder / f"{self.number}.zarr"

    def later(self, act: Callable[[], object]) -> threading.Timer:
        timer = threading.Timer(self.random.uniform(0, self.seconds), act)
        timer.start()
        return timer

    def settled(self, store: Path, done: int) -> dict[str, Any]:
        """What the same call makes of what a kill left."""
        again = self.patch(None, store)
        return {"units kept": done, "same bits": bool(again.identical(self.whole))}

    def worker(self) -> dict[str, Any]:
        victim = self.cluster.workers.pop(0)
        timer = self.later(victim.kill)
        store = self.store()
        result = self.patch(self.cluster.address, store)
        timer.cancel()
        victim.kill()
        self.cluster.add_worker()
        return {"units kept": stores.status(store).done, "same bits": bool(result.identical(self.whole))}

    def driver(self) -> dict[str, Any]:
        store = self.store()
        script = DRIVER.format(
            small=SMALL, n=len(self.task), by=BY, path=str(store), address=self.cluster.address
        )
        driver = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, env=environment()
        )
        assert driver.stdout is not None
        driver.stdout.readline()
        time.sleep(self.random.uniform(0, self.seconds))
        driver.kill()
        driver.wait()
        driver.stdout.close()
        return self.settled(store, stores.status(store).done if store.exists() else 0)

    def scheduler(self) -> dict[str, Any]:
        store = self.store()
        timer = self.later(self.cluster.scheduler.kill)
        try:
            self.patch(self.cluster.address, store)
        except (workers.WorkersLost, ValueError) as error:  # before the first unit it is not there
            print(error, file=sys.stderr)
        timer.cancel()
        self.cluster.close()
        row = self.settled(store, stores.status(store).done if store.exists() else 0)
        self.cluster = Cluster(self.folder)
        self.patch(self.cluster.address)  # its workers load
        return row


def kills(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Trials of each kind; a row is right where the result has the bits of an undisturbed process."""
    trials = Trials(folder, args.n or 64)
    row: dict[str, Any] = {"units": stores_units(trials), "sweep, s": trials.seconds}
    try:
        for kind in ("worker", "driver", "scheduler"):
            each = [getattr(trials, kind)() for _ in range(args.trials)]
            row[kind] = {
                "trials": len(each),
                "same bits": sum(one["same bits"] for one in each),
                "units kept": [one["units kept"] for one in each],
            }
            print(kind, row[kind], file=sys.stderr)
    finally:
        trials.cluster.close()
    return row


def stores_units(trials: Trials) -> int:
    """How many units a sweep has."""
    store = trials.store()
    trials.patch(None, store)
    return stores.status(store).total or 0


if __name__ == "__main__":
    main()
