"""Circuit discovery by this package against the same work done one forward at a time, in one run, as ratios.

    python benchmarks/circuits.py [--quick] [--device cuda] [--rows acdc exact acdc-gpt2 evaluate]

The one-by-one side is `interp.circuits._reference`: one forward of the whole model for each edge tried, in
plain tensor operations. Both sides give the same numbers, or the script says by how much they differ. Times
are medians; each whole call is timed, base runs, checks and result included.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import patching
import table
import torch

import interp
from interp import circuits
from interp.circuits._reference import Reference, acdc_one_by_one
from interp.tasks import KL

Row = dict[str, Any]
COLUMNS: table.Columns = {
    "work": lambda r: r["work"],
    "model": lambda r: r["model"],
    "prompts × tokens": lambda r: f"{r['prompts']} × {r['tokens']}",
    "edges": lambda r: f"{r['edges']:,}",
    "kept": lambda r: str(r.get("kept", "–")),
    "one by one": lambda r: (
        f"{r['reference_s']:.2f} s ({r['forwards']:,} forwards)"
        if "forwards" in r
        else f"run: {r['run_s']:.2f} s"
        if "run_s" in r
        else "–"
    ),
    "interp": lambda r: f"{r['ours_s']:.2f} s" + (f" ({r['rows']:,} rows)" if "rows" in r else ""),
    "ratio": lambda r: f"**{r['ratio']:.1f}×**" if "ratio" in r else "–",
    "asked": lambda r: r["asked"],
    "largest difference": lambda r: f"{r['gap']:.1e}" if "gap" in r else "–",
    "same decisions": lambda r: {True: "yes", False: "NO"}.get(r.get("same"), "–"),
}


def acdc(device: str, quick: bool) -> list[Row]:
    """tiny-ioi, 32 prompts, thresholds that keep 1 to 5 % of the edges."""
    model = interp.load("tiny-ioi", device=device)
    task = interp.tasks.ioi(model, n=8 if quick else 32, seed=0)
    rows = []
    for threshold in (1.0,) if quick else (1.0, 0.3, 0.1):
        (steps, forwards), reference, found, ours = _both(
            partial(acdc_one_by_one, model, task, threshold),
            partial(circuits.acdc, model, task, threshold, progress=False),
            1 if quick else 5,
        )
        trace = circuits.trace(found)
        told = found.provenance
        rows.append(
            _of(model, task, found.graph)
            | {"work": f"acdc, KL, threshold {threshold:g}", "asked": "≥ 10×", "kept": found.n_edges}
            | {"reference_s": reference, "ours_s": ours, "ratio": reference / ours, "forwards": forwards}
            | {"rows": told["rows"], "batches": told["batches"], "n_ties": told["n_ties"]}
            | {"same": [(s.edge, s.kept) for s in steps] == [(s.edge, s.kept) for s in trace]}
            | {"gap": max(abs(a.value - b.value) for a, b in zip(steps, trace) if not math.isnan(a.value))}
        )
    return rows


def exact(device: str, quick: bool) -> list[Row]:
    """Every edge of tiny-ioi, cut alone."""
    model = interp.load("tiny-ioi", device=device)
    task = interp.tasks.ioi(model, n=8 if quick else 32, seed=0)
    graph = circuits.Graph.of(model)
    edges = graph.allowed.nonzero().tolist()

    def one_by_one() -> np.ndarray:
        run, values = Reference(model, task), []
        clean = run(graph.allowed)
        for writer, reader in edges:
            mask = graph.allowed.clone()
            mask[writer, reader] = False
            values.append((clean - run(mask)).cpu().numpy())
        return np.stack(values, 1)  # [prompt, edge]

    expected, reference, result, ours = _both(
        one_by_one, lambda: circuits.exact(model, task), 1 if quick else 5
    )
    writers, readers = np.array(edges).T
    found = result["value"].values[:, writers, readers]
    row = {"work": "exact", "asked": "≥ 10×", "forwards": len(edges) + 1, "gap": abs(found - expected).max()}
    row |= {"reference_s": reference, "ours_s": ours, "ratio": reference / ours}
    return [_of(model, task, graph) | row]


def acdc_gpt2(device: str, quick: bool) -> list[Row]:
    """The shape of GPT-2 small, random weights: 32,491 edges, at most 100 kept."""
    small = {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 500}
    model = patching.model_of(patching.GPT2 | (small if quick else {}), device)
    task = patching.task_of(model, 15, 0, 100 if device.startswith("cuda") else 10)
    threshold = 0.002
    ours, found = patching.timed(lambda: circuits.acdc(model, task, threshold), 1)
    again = float(circuits.run(model, task, found, metric=KL())["raw"].mean())
    told = found.provenance
    row = {"work": f"acdc, KL, threshold {threshold:g}", "kept": found.n_edges, "ours_s": ours}
    row |= {"asked": "≤ 60 s" if device.startswith("cuda") else "≤ 15 min", "rows": told["rows"]}
    row |= {"tried": told["decided_by_a_run"], "gap": abs(again - float(told["metric_circuit"]))}
    return [_of(model, task, found.graph) | row | {"model": "GPT-2 small's shape, random"}]


def evaluate(device: str, quick: bool) -> list[Row]:
    """`evaluate` by its default measures against `run` of the same circuit, on SmolLM2-135M: 169 edges."""
    name, edges = ("tiny-ioi", 40) if quick else ("smollm2-135m", 169)
    model = interp.load(name, device=device)
    task = interp.tasks.ioi(model, n=8, seed=0)
    circuit = circuits.top(circuits.score_edges(model, task, progress=False), edges)
    _, run, _, ours = _both(
        partial(circuits.run, model, task, circuit, progress=False),
        partial(circuits.evaluate, model, task, circuit, progress=False),
        1 if quick else 3,
    )
    row = {"work": "evaluate: faithfulness and KL, against run", "asked": "≤ 1.5× of run, aim 1.2×"}
    row |= {"kept": circuit.n_edges, "ours_s": ours, "run_s": run, "ratio": ours / run}
    return [_of(model, task, circuit.graph) | row]


ROWS: dict[str, Callable[[str, bool], list[Row]]] = {
    "acdc": acdc,
    "exact": exact,
    "acdc-gpt2": acdc_gpt2,
    "evaluate": evaluate,
}


def _of(model: Any, task: Any, graph: circuits.Graph) -> Row:
    sizes = {"prompts": len(task), "tokens": task.clean.shape[1], "edges": graph.n_edges}
    return {"model": str(model.cfg.model_name), **sizes}


def _both(
    reference: Callable[[], Any], ours: Callable[[], Any], repeats: int
) -> tuple[Any, float, Any, float]:
    """Result and median seconds of each, timed in turn, so that both meet the same neighbours."""
    reference(), ours()
    seconds: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(repeats):
        for side, call in enumerate((reference, ours)):
            took, results[side] = patching.timed(call, 1)
            seconds[side].append(took)
    return results[0], float(np.median(seconds[0])), results[1], float(np.median(seconds[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="few prompts, to see that the script works")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    args = parser.parse_args()
    rows: list[Row] = []
    for name in args.rows:
        start = time.perf_counter()
        rows += ROWS[name](args.device, args.quick)
        print(table.table(COLUMNS, rows), f"{name}: {time.perf_counter() - start:.0f} s in all\n", sep="")
    if not args.quick and set(args.rows) == set(ROWS):
        _write(rows, args.device)


def _write(rows: list[Row], device: str) -> None:
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    versions = f"torch {torch.__version__}, transformer-lens {patching._version('transformer-lens')}"
    where = f"{patching._device(device)}, {torch.get_num_threads()} threads, {versions}, float32"
    (folder / f"circuits-{device}.json").write_text(json.dumps({"where": where, "rows": rows}, indent=1))
    text = f"# Circuits\n\n{where}.\n\n{table.table(COLUMNS, rows)}\n"
    (folder / f"circuits-{device}.md").write_text(text)
    print(folder / f"circuits-{device}.md")


if __name__ == "__main__":
    main()
