"""What `interp.plan` foresees against what is measured: FLOPs by torch's counter, seconds by the clock.

    python benchmarks/plans.py [--quick]           # foreseen against measured
    python benchmarks/plans.py --cost [--quick]    # cost against layers, width, tokens and prompts

Models of random weights in three shapes; prompts that differ from the first token on. Each ratio is foreseen
over measured, seconds as the median of three calls after one that is not counted, in units of one rate that
is measured in the same run. With --cost one size at a time is doubled, and every figure is given over that of
the first row: FLOPs as torch counts them, seconds as the median of three calls.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import patching
import table
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp import circuits
from interp.engine.plan import Plan

SHAPES = {
    "4 layers of 256": {"n_layers": 4, "d_model": 256, "d_head": 32, "n_heads": 8, "d_mlp": 1024},
    "6 layers of 512": {"n_layers": 6, "d_model": 512, "d_head": 64, "n_heads": 8, "d_mlp": 2048},
    "4 layers of 768": {"n_layers": 4, "d_model": 768, "d_head": 64, "n_heads": 12, "d_mlp": 3072},
}
COLUMNS: table.Columns = {
    "shape": lambda r: r["shape"],
    "prompts × tokens": lambda r: f"{r['prompts']} × {r['tokens']}",
    "work": lambda r: r["verb"],
    "FLOPs, foreseen over counted": lambda r: f"{r['flops'] / r['counted']:.2f}",
    "seconds, measured": lambda r: f"{r['measured']:.2f}",
    "seconds, foreseen over measured": lambda r: f"{r['seconds'] / r['measured']:.2f}",
}


def calls(model: Any, task: Any) -> dict[str, tuple[Plan, Callable[[], Any]]]:
    """By verb, what is foreseen and the call."""
    quiet = {"progress": False}
    graph = circuits.Graph.of(model)
    mask = graph.allowed.clone()
    mask[:, ::3] = False
    circuit = circuits.Circuit(graph, mask)
    plan = lambda verb, **more: interp.plan(verb, model, task, **more)  # noqa: E731
    return {
        "patch z": (plan("patch", site="z"), partial(interp.patch, model, task, "z", **quiet)),
        "patch resid_pre": (
            plan("patch", site="resid_pre"),
            partial(interp.patch, model, task, "resid_pre", **quiet),
        ),
        "attribute atp": (plan("attribute", site="z"), partial(interp.attribute, model, task, "z", **quiet)),
        "score_edges eap": (plan("score_edges"), partial(circuits.score_edges, model, task, **quiet)),
        "circuits.run": (plan("run"), partial(circuits.run, model, task, circuit, **quiet)),
    }


def rows_of(name: str, shape: dict[str, int], n: int, tokens: int) -> list[dict[str, Any]]:
    model = patching.model_of(shape | {"n_ctx": 256, "d_vocab": 2000}, "cpu")
    task = patching.task_of(model, tokens, 0, n)
    rows = []
    for verb, (foreseen, call) in calls(model, task).items():
        call()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
        seconds, _ = patching.timed(call, 3)
        row = {"shape": name, "prompts": n, "tokens": tokens, "verb": verb, "measured": seconds}
        rows.append(
            row | {"flops": foreseen.flops, "seconds": foreseen.seconds, "counted": counter.get_total_flops()}
        )
        print(table.table(COLUMNS, rows[-1:]).splitlines()[-1], flush=True)
    return rows


BASE = {"layers": 4, "width": 256, "tokens": 16, "prompts": 8}
TWICE: table.Columns = {
    "": lambda r: r["what"],
    **{
        verb: lambda r, verb=verb: (
            f"{r['flops'][verb] / 1e9:.1f} G, {r['seconds'][verb]:.2f} s"
            if "over" not in r
            else f"{r['over'][verb][0]:.2f}×, {r['over'][verb][1]:.2f}×"
        )
        for verb in ("patch z", "patch resid_pre", "attribute atp", "score_edges eap", "circuits.run")
    },
}


def cost_of(sizes: dict[str, int], what: str) -> dict[str, Any]:
    """FLOPs and seconds of every verb at some sizes."""
    width = sizes["width"]
    shape = {
        "n_layers": sizes["layers"],
        "d_model": width,
        "d_head": 32,
        "n_heads": width // 32,
        "d_mlp": 4 * width,
    }
    model = patching.model_of(shape | {"n_ctx": 256, "d_vocab": 2000}, "cpu")
    task = patching.task_of(model, sizes["tokens"], 0, sizes["prompts"])
    row: dict[str, Any] = {"what": what, "sizes": sizes, "flops": {}, "seconds": {}}
    for verb, (_, call) in calls(model, task).items():
        call()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
        row["flops"][verb] = counter.get_total_flops()
        row["seconds"][verb], _ = patching.timed(call, 3)
    return row


def cost(quick: bool) -> list[dict[str, Any]]:
    """The first sizes, and each of them twice as large."""
    base = BASE | ({"layers": 2, "width": 64, "tokens": 8, "prompts": 2} if quick else {})
    rows = [cost_of(base, ", ".join(f"{size} {name}" for name, size in base.items()))]
    for name, size in base.items():
        row = cost_of(base | {name: 2 * size}, f"{name} {2 * size}")
        row["over"] = {
            verb: [row[what][verb] / rows[0][what][verb] for what in ("flops", "seconds")]
            for verb in row["flops"]
        }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape, few prompts")
    parser.add_argument("--cost", action="store_true", help="against layers, width, tokens and prompts")
    args = parser.parse_args()
    where = f"{patching._device('cpu')}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    folder = Path(__file__).parent / "results"
    if args.cost:
        rows = cost(args.quick)
        print(table.table(TWICE, rows))
        if not args.quick:
            (folder / "cost.json").write_text(json.dumps({"where": where, "rows": rows}, indent=1))
            (folder / "cost.md").write_text(
                f"# Cost\n\n{where}. FLOPs, seconds.\n\n{table.table(TWICE, rows)}\n"
            )
        return
    shapes = dict(list(SHAPES.items())[:1]) if args.quick else SHAPES
    sizes = ((2, 8),) if args.quick else ((4, 15), (4, 60))
    rows = [row for name, shape in shapes.items() for size in sizes for row in rows_of(name, shape, *size)]
    if not args.quick:
        (folder / "plans.json").write_text(json.dumps({"where": where, "rows": rows}, indent=1))
        (folder / "plans.md").write_text(f"# Plans\n\n{where}.\n\n{table.table(COLUMNS, rows)}\n")


if __name__ == "__main__":
    main()
