"""A sweep over features of a dictionary, against a loop of hooks over them on the model itself, in one run.

    python benchmarks/features.py [--quick] [--out benchmarks/results/features.json]

The dictionary is random (what counts is how many features differ); the loop runs one forward with a hook
for every feature, all prompts in a batch, as patching by hand does. Both give the same numbers, which is
checked. The loop is timed on some of the features and scaled.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from interp import sae

ROWS = (("tiny-ioi", "ioi", "L1.resid_pre", 500), ("tiny-world", "ioi", "L2.resid_pre", 500))


def drawn(model: Any, place: str, n: int) -> sae.Dictionary:
    g, d = torch.Generator().manual_seed(0), model.cfg.d_model
    r = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    return sae.Dictionary(r(d, n) / d**0.5, 0.1 * r(n), r(n, d) / d**0.5, 0.1 * r(d), place=place)


def loop(model: Any, task: interp.Task, d: sae.Dictionary, features: list[int], hook: str) -> np.ndarray:
    """Denoising by hand: the metric's change of every feature, [feature, prompt]."""
    with torch.no_grad():
        x, y = (model.run_with_cache(t, names_filter=hook)[1][hook] for t in (task.corrupt, task.clean))
        step, row = d.contributions(y) - d.contributions(x), torch.arange(len(task))
        measured = lambda out: (  # noqa: E731
            out[row, task.positions, task.answers[:, 0]] - out[row, task.positions, task.wrongs[:, 0]]
        )
        base, out = measured(model(task.corrupt)), []
        for feature in features:
            change = step[..., feature, None] * d.W_dec[feature]
            hooks = [(hook, lambda t, hook, change=change: t + change)]
            out.append((measured(model.run_with_hooks(task.corrupt, fwd_hooks=hooks)) - base).numpy())
    return np.stack(out)


def row(name: str, family: str, place: str, n_features: int, n: int, some: int) -> dict[str, Any]:
    model = interp.load(name)
    task = getattr(interp.tasks, family)(model, n=n, seed=0, template=0)
    d, hook = drawn(model, place, n_features), f"blocks.{place[1]}.hook_resid_pre"
    interp.patch(model, task[:2], features=d, progress=False)
    start = time.perf_counter()
    swept = interp.patch(model, task, features=d, progress=False)
    ours = time.perf_counter() - start
    index = [int(each) for each in swept["index"].values if each >= 0]
    chosen = index[:: max(1, len(index) // some)]
    start = time.perf_counter()
    by_hand = loop(model, task, d, chosen, hook)
    theirs = (time.perf_counter() - start) * len(index) / len(chosen)
    values = swept["value"].values[:, [index.index(each) for each in chosen]].T
    return {
        "model": name, "place": place, "features": len(index), "prompts": n,
        "tokens": int(task.clean.shape[1]),
        "seconds": round(ours, 3), "loop_seconds": round(theirs, 3), "times": round(theirs / ours, 1),
        "largest": float(abs(by_hand).max()), "differ": float(abs(values - by_hand).max()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/features.json"))
    args = parser.parse_args()
    torch.set_num_threads(2)
    rows = [row(*each, n=8 if args.quick else 32, some=20 if args.quick else 100) for each in ROWS]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = {"machine": platform.processor() or platform.machine(), "threads": 2, "quick": args.quick}
    args.out.write_text(json.dumps({**made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
