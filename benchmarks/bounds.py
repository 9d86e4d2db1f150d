"""Does `memory=` hold? The peak of every verb above what the process held, at three bounds (Linux).

    python benchmarks/bounds.py [--quick]

One process for each verb and bound, with a model of random weights in the shape of GPT-2 small (vocabulary of
5,000), 32 prompts of 20 tokens that differ from the first on. Small blocks of memory go back to the system as
they are freed (MALLOC_MMAP_THRESHOLD_), so that what is counted is held. Each call is made twice, and the
second counts: what libraries load once is not the call's. A result is part of the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import memory
import table

MIB = 2**20
BOUNDS = (64 * MIB, 256 * MIB, 1024 * MIB)
SECONDS = 470  # of the whole table at most; what is left out then has no number
HEADS = ["L6H3", "L9H9", "L11H2"]
COLUMNS: table.Columns = {
    "verb": lambda r: r["verb"],
    **{
        f"{bound // MIB} MiB": lambda r, bound=bound: (
            f"{r[str(bound)] / MIB:.0f} MiB, {r[str(bound)] / bound:.2f}×" if r.get(str(bound)) else "–"
        )
        for bound in BOUNDS
    },
}


def verbs(model: Any, task: Any) -> dict[str, Callable[..., Any]]:
    """Every verb that takes `memory=`, on work that takes seconds; each is called with the bound."""
    import interp
    from interp import circuits, steering

    graph = circuits.Graph.of(model)
    few = task[:4]
    mask = graph.allowed.clone()
    mask[:, ::3] = False
    circuit = circuits.Circuit(graph, mask)
    steered = partial(steering.sweep, model, engine="auto", with_controls=False)
    direction = steering.mean_difference(model, task.clean[:4], task.clean[4:8], layer=[3, 6, 9])
    return {
        "patch resid_pre": partial(interp.patch, model, task, "resid_pre"),
        "patch z": partial(interp.patch, model, few, "z"),
        "patch pattern": partial(interp.patch, model, few, "pattern"),
        "attribute atp": partial(interp.attribute, model, task, ["z", "resid_pre"], "layer"),
        "attribute secant": partial(interp.attribute, model, task, "z", method="secant"),
        "path_patch": partial(interp.path_patch, model, few, senders="heads", receivers=HEADS[-1:]),
        "circuits.run": partial(circuits.run, model, task, circuit),
        "circuits.evaluate": partial(circuits.evaluate, model, task, circuit),
        "circuits.acdc": partial(circuits.acdc, model, task, 1e9),
        "circuits.score_edges, mean": partial(circuits.score_edges, model, task, by_prompt=False),
        "circuits.score_edges, by prompt": partial(circuits.score_edges, model, few),
        "steering.sweep": partial(steered, direction, task, [0.0, 1.0, 2.0, 4.0]),
    }


def one(verb: str, bound: int, quick: bool) -> None:
    """Print the peak of a verb at a bound, in bytes."""
    import patching

    small = {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128}
    shape = patching.GPT2 | {"d_vocab": 5000} | (small if quick else {})
    model = patching.model_of(shape, "cpu")
    call = verbs_of(model, patching, 8 if quick else 32)[verb]
    call(memory=bound, progress=False)
    memory.reset()
    before = memory.resident("VmRSS")
    result = call(memory=bound, progress=False)
    print(memory.resident("VmHWM") - before)
    del result


def verbs_of(model: Any, patching: Any, n: int) -> dict[str, Callable[..., Any]]:
    return verbs(model, patching.task_of(model, 20, 0, n))


NAMES = (
    "patch resid_pre", "patch z", "patch pattern", "attribute atp", "attribute secant", "path_patch",
    "circuits.run", "circuits.evaluate", "circuits.acdc", "circuits.score_edges, mean",
    "circuits.score_edges, by prompt", "steering.sweep",
)  # fmt: skip


def measured(verb: str, bound: int, quick: bool, seconds: float) -> int | None:
    """Bytes; None where the verb did not end in time."""
    if seconds < 5:
        return None
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    call = [sys.executable, __file__, "--one", verb, "--bound", str(bound), *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{verb} at {bound // MIB} MiB: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shape at one bound")
    parser.add_argument("--verbs", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--bound", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.one, args.bound, args.quick)
    start, rows = time.perf_counter(), []
    for verb in args.verbs:
        bounds = BOUNDS[:1] if args.quick else BOUNDS
        row: dict[str, Any] = {"verb": verb}
        for bound in bounds:
            left = SECONDS - (time.perf_counter() - start)
            row[str(bound)] = measured(verb, bound, args.quick, left)
        rows.append(row)
        print(table.table(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if not args.quick and set(args.verbs) == set(NAMES):
        folder = Path(__file__).parent / "results"
        (folder / "bounds.json").write_text(json.dumps(rows, indent=1))
        text = "Peak above the process, and against the bound; asked: at most 1.1×. –: not in time.\n"
        (folder / "bounds.md").write_text(f"# Memory\n\n{text}\n{table.table(COLUMNS, rows)}\n")


if __name__ == "__main__":
    main()
