"""Distributed alignment search by this package and by TransformerLens 4.3's `fit_das`, in one run, as ratios.

    python benchmarks/subspaces.py --peer PYTHON [--quick]

PYTHON is that of an environment with TransformerLens 4.3 or later; both searches run there, on the same
model, pairs, rank and number of steps, one after the other for every seed. Time is that of the whole call
(ours also measures the loss for stopping and the accuracy), scaled to as many steps where ours stopped early.
Accuracy is on the same held-out pairs, by `interp.subspaces.accuracy` for both. FLOPs are counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import interp
from interp import subspaces

AT_LEAST = 3
EPOCHS, BATCH = 20, 128
ROWS = (  # model, family, variable, place, span, rank
    ("tiny-world", "ioi", "subject", "L1.resid_pre", "end", 16),
    ("tiny-world", "ioi", "subject", "L2.resid_pre", "end", 16),
    ("tiny-ioi", "ioi", "subject", "L1.resid_pre", "end", 16),
)


def ours(model: Any, task: Any, row: tuple, seed: int, pairs: int, steps: int) -> Callable[[], Any]:
    _, _, variable, place, span, rank = row
    return lambda: subspaces.das(
        model, task, variable, place, span, rank=rank, controls=(), n_pairs=pairs, steps=steps, seed=seed,
        progress=False,
    )  # fmt: skip


def theirs(model: Any, task: Any, row: tuple, seed: int, parts: dict, epochs: int) -> Callable[[], Any]:
    from transformer_lens.tools.analysis.interchange import fit_das

    from interp.places import hook_name, parse

    place, span, rank = parse(row[3]), row[4], row[5]
    train = parts["train"]
    at = task.spans[span].int().argmax(1)
    return lambda: fit_das(
        model, hook_name(place.site, place.layer), task.clean[train.own], task.clean[train.source],
        train.target, lambda tokens: model(tokens)[:, -1][:, train.choices], rank=rank,
        base_positions=at[train.own], source_positions=at[train.source], epochs=epochs, batch_size=BATCH,
        seed=seed,
    )  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


def flops(call: Callable[[], Any]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measured(row: tuple, seeds: int, prompts: int, pairs: int, epochs: int) -> dict[str, Any]:
    """Accuracies, seconds and FLOPs a step of both, seed by seed."""
    model = interp.load(row[0])
    model.requires_grad_(False)
    task = getattr(interp.tasks, row[1])(model, n=prompts, template=0)
    batches = -(-pairs // BATCH)
    steps, out = epochs * batches, {name: [] for name in ("ours", "theirs", "ours_s", "theirs_s", "taken")}
    for seed in range(seeds):
        parts = subspaces.pairs(task, row[2], n=pairs, seed=seed)
        seconds, found = timed(ours(model, task, row, seed, pairs, steps))
        if found.dropped or len(parts["train"]) != pairs:
            raise SystemExit(f"{row[0]}: {found.dropped} prompts dropped, {len(parts['train'])} pairs.")
        other_s, other = timed(theirs(model, task, row, seed, parts, epochs))
        learnt = {
            "ours": found.subspace,
            "theirs": subspaces.Subspace(other.basis.contiguous(), row[3]),
        }
        judged = subspaces.accuracy(model, parts["test"], learnt, row[4])["raw"].mean("pair")
        taken = min(steps, len(found.losses) * max(1, 10 // batches) * batches)
        for name, value in (("ours_s", seconds), ("theirs_s", other_s), ("taken", taken)):
            out[name].append(value)
        for name in learnt:
            out[name].append(float(judged.sel(exchange=name)))
    ends = [flops(ours(model, task, row, 0, pairs, n * batches)) for n in (1, 2)]
    other = [flops(theirs(model, task, row, 0, subspaces.pairs(task, row[2], n=pairs), n)) for n in (1, 2)]
    scaled = np.array(out["ours_s"]) * steps / np.array(out["taken"])
    return {
        "row": list(row), "pairs": pairs, "steps": steps, "prompts": prompts,
        "ratio": float(np.sum(out["theirs_s"]) / scaled.sum()), "flops_a_step": (ends[1] - ends[0]) / batches,
        "their_flops_a_step": (other[1] - other[0]) / batches, **out,
    }  # fmt: skip


def interval(values: list[float]) -> str:
    """Mean, and the 95 % interval by Student's t over the seeds."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("nan")
    return f"{np.mean(values):.3f} ± {half:.3f}"


def markdown(out: dict[str, Any]) -> str:
    """The figures as a table."""
    heads = (
        "model",
        "variable",
        "place",
        "rank",
        "pairs",
        "steps",
        "accuracy",
        "`fit_das`",
        "ours, s",
        "`fit_das`, s",
    )
    heads += ("ratio", "asked", "GFLOP a step", "`fit_das`")
    lines = [
        f"# Distributed alignment search against TransformerLens {out['transformer_lens']}'s `fit_das`",
        "",
        f"{out['processor']}, {out['threads']} threads; {out['seeds']} seeds; held-out accuracy with 95 % "
        "intervals over seeds; seconds are medians of whole calls.",
        "",
    ]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in out["rows"]:
        name, _, variable, place, span, rank = r["row"]
        cells = [name, variable, f"{place} at {span}", rank, r["pairs"], r["steps"], interval(r["ours"])]
        cells += [interval(r["theirs"]), f"{np.median(r['ours_s']):.2f}", f"{np.median(r['theirs_s']):.2f}"]
        cells += [f"**{r['ratio']:.1f}×**", f"{AT_LEAST}×"]
        cells += [f"{r[which] / 1e9:.2f}" for which in ("flops_a_step", "their_flops_a_step")]
        lines += [f"| {' | '.join(map(str, cells))} |"]
    return "\n".join(lines) + "\n"


def inside(quick: bool) -> dict[str, Any]:
    """Everything, in the environment of the peer."""
    import torch
    import transformer_lens

    warnings.simplefilter("ignore")
    rows = []
    for row in ROWS[: 1 if quick else None]:
        seeds, prompts, pairs, epochs = (2, 128, 128, 2) if quick else (5, 512, 1024, EPOCHS)
        rows.append(measured(row, seeds, prompts, pairs, epochs))
    return {
        "rows": rows, "seeds": seeds, "threads": torch.get_num_threads(),
        "transformer_lens": getattr(transformer_lens, "__version__", "4"),
        "processor": platform.processor() or platform.machine(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one model and two epochs, to see that it works")
    parser.add_argument("--peer", help="the Python of an environment with TransformerLens 4.3", default=None)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        print(json.dumps(inside(args.quick)))
        return
    if args.peer is None:
        raise SystemExit("--peer is missing: fit_das is in TransformerLens 4.3 alone.")
    command = [args.peer, __file__, "--inside", *(["--quick"] if args.quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    out = json.loads(done.stdout.splitlines()[-1])
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    name = "subspaces-quick" if args.quick else "subspaces-cpu"
    (folder / f"{name}.json").write_text(json.dumps(out, indent=1))
    (folder / f"{name}.md").write_text(markdown(out))
    print(markdown(out))


if __name__ == "__main__":
    main()
