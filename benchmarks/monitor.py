"""What a streaming monitor costs: `probes.watch` against `steering.generate` of the same tokens, in turn.

    python benchmarks/monitor.py [--quick] [--model smollm2-135m] [--out benchmarks/results/monitor.json]

Both generate the same number of tokens from the same prompts on the same engine, alternately, after a warm-up
of each; the medians are compared, and so are the pairs of neighbours. The probes' weights are drawn: what
they read costs the same whatever they say. One probe, then five (one a layer, evenly), of the aggregation
that reads most (attention and values of two heads).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import interp
from interp import probes, steering
from interp.models import anatomy
from interp.places import Place
from interp.probes.aggregate import Weights

ASKED = 1.1


def drawn(model: Any, n: int, kind: str) -> probes.Probes:
    facts, g = anatomy(model), torch.Generator().manual_seed(0)
    layers = sorted({round((k + 1) * facts.n_layers / (n + 1)) for k in range(n)})
    draw = lambda: torch.randn(1, facts.d_model, 2, generator=g, dtype=torch.float64)  # noqa: E731
    weights = {Place("resid_pre", each): Weights(draw(), draw(), torch.zeros(1).double()) for each in layers}
    return probes.Probes(weights, kind, "all", facts.name)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(model: Any, kind: str, n: int, rows: int, tokens: int, new: int, repeats: int) -> dict[str, Any]:
    ids = torch.randint(10, 100, (rows, tokens), generator=torch.Generator().manual_seed(0))
    probe, options = drawn(model, n, kind), {"max_new_tokens": new, "stop": ()}
    plain = lambda: steering.generate(model, ids, **options)  # noqa: E731
    watched = lambda: probes.watch(model, ids, probe, **options)  # noqa: E731
    same = torch.equal(plain(), watched()[0])
    pairs = []
    for k in range(repeats):  # in turn, and each first every other time
        calls = (plain, watched) if k % 2 else (watched, plain)
        took = [seconds(call) for call in calls]
        pairs.append(took if k % 2 else took[::-1])
    one, other = (statistics.median(each) for each in zip(*pairs))
    ratios = sorted(b / a for a, b in pairs)
    return {
        "model": anatomy(model).name, "agg": kind, "probes": len(probe.places), "rows": rows,
        "prompt": tokens, "new": new,
        "generate_s": round(one, 4), "watch_s": round(other, 4), "ratio": round(other / one, 3),
        "ratio_of_pairs": [round(ratios[k], 3) for k in (0, len(ratios) // 2, -1)],
        "asked": ASKED, "same": same,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny-world alone, three repeats")
    parser.add_argument("--model", action="append", help="models (default: tiny-world and smollm2-135m)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/monitor.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.model or (["tiny-world"] if args.quick else ["tiny-world", "smollm2-135m"])
    out = []
    for name in names:
        model = interp.load(name)
        tokens, new = (20, 24) if args.quick or name.startswith("tiny") else (64, 48)
        repeats = 3 if args.quick else 15 if name.startswith("tiny") else 7
        for rows in (1, 8):
            for kind, n in (("mean", 1), ("attention", 1), ("attention", 5)):
                out.append(row(model, kind, n, rows, tokens, new, repeats))
                print(out[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    made = {
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "quick": args.quick,
    }
    args.out.write_text(json.dumps({**made, "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
