"""Does `memory=` hold? The peak of every verb above what the process held, at three bounds (Linux).

    python benchmarks/bounds.py [--quick] [--verbs "patch z" ...]

A process for each verb and bound, with a model of random weights (6 layers of 256, vocabulary of 2,000) and
prompts of 20 tokens that differ from the first on, as many as it takes to reach the bound in seconds. Small
blocks of memory go back to the system as they are freed (MALLOC_MMAP_THRESHOLD_), so that what is counted is
held. A first call on few prompts is not counted: what libraries load once is not the call's. A result is part
of the peak. Where a call holds less than a third of a bound, all of its work fits and larger bounds are left
out. Each verb and bound that ends is written at once, so that a run can be made in pieces.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import memory
import patching as models
import table
import torch

import interp
from interp import circuits, patching, paths, steering, subspaces

MIB = 2**20
BOUNDS = (64 * MIB, 256 * MIB, 1024 * MIB)
SECONDS = 300  # of one verb at one bound
FITS = 1 / 3  # of the bound: a call that holds less has all of its work at once
SHAPE = {
    "n_layers": 6,
    "d_model": 256,
    "d_head": 32,
    "n_heads": 8,
    "d_mlp": 1024,
    "d_vocab": 2000,
    "n_ctx": 64,
}
SMALL = {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 2000, "n_ctx": 64}
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
RESULTS = Path(__file__).parent / "results"
Call = Callable[..., Any]  # takes memory=
COLUMNS: table.Columns = {
    "verb": lambda r: r["verb"],
    "prompts": lambda r: str(r["prompts"]),
    **{f"{bound // MIB} MiB": lambda r, bound=bound: shown(r["peaks"], bound) for bound in BOUNDS},
}


def shown(peaks: dict[str, Any], bound: int) -> str:
    peak = peaks.get(str(bound), "–")
    return peak if isinstance(peak, str) else f"{peak / MIB:.0f} MiB, {peak / bound:.2f}×"


def half(model: Any) -> circuits.Circuit:
    """A circuit of two thirds of the readers' edges."""
    graph = circuits.Graph.of(model)
    mask = graph.allowed.clone()
    mask[:, ::3] = False
    return circuits.Circuit(graph, mask)


def ranked(model: Any) -> circuits.Circuit:
    """All edges, with scores."""
    graph = circuits.Graph.of(model)
    scores = torch.rand(graph.allowed.shape, generator=torch.Generator().manual_seed(0))
    return circuits.Circuit(graph, graph.allowed, scores)


def swept(model: Any, task: Any) -> Call:
    layers = list(range(model.cfg.n_layers))[::2]
    direction = steering.mean_difference(model, task.clean[:4], task.corrupt[:4], layer=layers)
    return partial(steering.sweep, model, direction, task, [0.0, 1.0, 2.0, 4.0], with_controls=False)


def exchanged(model: Any, task: Any) -> Call:
    basis = torch.eye(model.cfg.d_model)[:, :4]
    return partial(subspaces.interchange, model, task, subspaces.Subspace(basis, "L1.resid_pre"), "all")


def knocked(model: Any, task: Any) -> Call:
    sets = {"first": ["L0H0", "L1H1"], "second": ["L1H0"]}
    return partial(patching.knockouts, model, [task], sets, chance=-100.0, draws=8)


def evaluated(model: Any, task: Any) -> Call:
    measures = ("faithfulness", "kl", "completeness")
    return partial(circuits.evaluate, model, task, half(model), measures=measures)


def written(model: Any, task: Any) -> Call:
    """`generate` takes no bound: what it holds grows with the prompts that it is given."""
    return lambda memory, progress: steering.generate(model, task.clean, max_new_tokens=20, stop=())


def of(verb: Callable[..., Any], *given: Any, **options: Any) -> Callable[[Any, Any], Call]:
    return lambda model, task: partial(verb, model, task, *given, **options)


ENDS = {"senders": "heads", "receivers": ["L1H2.q", "logits"]}
PAIRED = ["L0H0", "L0H1", "L1H0", "L1H3"]
VERBS: dict[str, tuple[int, Callable[[Any, Any], Call]]] = {  # prompts, and the call on a model and a task
    "patch resid_pre": (12, of(interp.patch, "resid_pre")),
    "patch z": (24, of(interp.patch, "z")),
    "patch z by position": (2, of(interp.patch, "z", ("layer", "pos", "head"))),
    "patch pattern": (24, of(interp.patch, "pattern", ("layer", "head"))),
    "patch z, KL": (24, of(interp.patch, "z", metric="kl")),
    "patching.pairs": (64, of(patching.pairs, PAIRED)),
    "patching.knockouts": (64, knocked),
    "path_patch": (6, of(interp.path_patch, **ENDS)),
    "paths.trace_back": (24, of(paths.trace_back, depth=2, k=2, level=0.01)),
    "subspaces.interchange": (384, exchanged),
    "attribute atp": (128, of(interp.attribute, ("z", "resid_pre"), "layer")),
    "attribute secant": (96, of(interp.attribute, "z", method="secant")),
    "attribution.screen": (24, of(interp.attribution.screen, "z", 6)),
    "circuits.score_edges, mean": (128, of(circuits.score_edges, by_prompt=False)),
    "circuits.score_edges, by prompt": (128, of(circuits.score_edges)),
    "circuits.score_edges, by position": (8, of(circuits.score_edges, positions=True)),
    "circuits.exact": (1, of(circuits.exact)),
    "circuits.run": (48, lambda model, task: partial(circuits.run, model, task, [half(model)] * 8)),
    "circuits.evaluate": (24, evaluated),
    "circuits.curve": (24, lambda model, task: partial(circuits.curve, model, task, ranked(model))),
    "circuits.random_baseline": (24, of(circuits.random_baseline, 200, draws=16)),
    "circuits.acdc": (48, of(circuits.acdc, 1e9)),
    "steering.sweep": (256, swept),
    "steering.generate (takes no memory=)": (64, written),
}


def child(name: str, bound: int, quick: bool, model: Any, tell: Connection) -> None:
    """Send the peak of a verb at a bound, in bytes, or what went wrong."""
    prompts, make = VERBS[name]
    try:
        task = models.task_of(model, 20, 0, max(prompts, 16))
        few = task[: 16 if "trace_back" in name else 4]
        make(model, few)(memory=bound, progress=False)
        call = make(model, few if quick else task[:prompts])
        gc.collect()
        memory.reset()
        before = memory.resident("VmRSS")
        result = call(memory=bound, progress=False)
        tell.send(memory.resident("VmHWM") - before)
        del result
    except Exception as error:  # told in the table, and the next verb goes on
        tell.send(f"{type(error).__name__}: {error}".splitlines()[0])


def measured(name: str, bound: int, quick: bool, model: Any) -> int | str:
    """Bytes; in words where there are none."""
    fork = get_context("fork")  # what is imported and the model are there at once
    hear, tell = fork.Pipe(duplex=False)
    process = fork.Process(target=child, args=(name, bound, quick, model, tell))
    process.start()
    tell.close()
    try:
        return hear.recv() if hear.poll(SECONDS) else f"not in {SECONDS} s"
    except EOFError:
        return "killed"
    finally:
        process.kill()
        process.join()


def row_of(name: str, bounds: tuple[int, ...], quick: bool, model: Any) -> dict[str, Any]:
    start, peaks = time.perf_counter(), {}
    for bound in bounds:
        peak = peaks[str(bound)] = measured(name, bound, quick, model)
        if isinstance(peak, int) and peak < FITS * bound:
            peaks |= {str(larger): "all fits in less" for larger in bounds if larger > bound}
            break
    seconds = round(time.perf_counter() - start, 1)
    return {"verb": name, "prompts": VERBS[name][0], "peaks": peaks, "seconds": seconds}


def put_down(row: dict[str, Any]) -> None:
    """Put a row among those of before."""
    path = RESULTS / "bounds.json"
    rows = {each["verb"]: each for each in json.loads(path.read_text())} if path.exists() else {}
    rows[row["verb"]] = row
    ordered = [rows[name] for name in VERBS if name in rows]
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    text = "Peak above what the process held, and as a multiple of the bound (asked: at most 1.1×).\n"
    text += '"all fits in less": at the bound before, everything was held at once.\n'
    (RESULTS / "bounds.md").write_text(f"# Memory\n\n{text}\n{table.table(COLUMNS, ordered)}\n")


def main() -> None:
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small shape at one bound; nothing is written")
    parser.add_argument("--verbs", nargs="+", choices=list(VERBS), default=list(VERBS))
    args = parser.parse_args()
    model = models.model_of(SMALL if args.quick else SHAPE, "cpu")
    start = time.perf_counter()
    for name in args.verbs:
        row = row_of(name, BOUNDS[:1] if args.quick else BOUNDS, args.quick, model)
        print(table.table(COLUMNS, [row]).splitlines()[-1], row["seconds"], "s", flush=True)
        if not args.quick:
            put_down(row)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
