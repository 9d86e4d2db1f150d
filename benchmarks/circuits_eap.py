"""Edge attribution (eap) by this package against bare passes and against TransformerLens 4's own.

    python benchmarks/circuits_eap.py [--quick] [--device cuda] [--tl4 .venv-tl4/bin/python]

1. All edges of a model of GPT-2 small's shape with random weights, against two bare forwards and one backward
   of the same prompts (see attribution.py): time, and peak memory above what was there before.
2. The same on a TransformerBridge, against `attribution_patch` with edges of TransformerLens 4, in a process
   of its own (circuits_eap_peer.py), where there is that release. Its scores are summed over positions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attribution
import peaks
import torch
from patching import GPT2, _device, _version, model_of, task_of, timed
from table import Columns, Row, table

from interp import circuits, load

HERE = Path(__file__).resolve().parent
BATCHES = ((1, 15), (10, 15), (4, 100))  # prompts, tokens
BARE: Columns = {
    "prompts × tokens": lambda r: f"{r['prompts']} × {r['tokens']}",
    "two forwards, one backward": lambda r: f"{r['bare_s']:.3f} s",
    "eap, all edges": lambda r: f"{r['ours_s']:.3f} s",
    "ratio": lambda r: f"**{r['ratio']:.2f}×**",
    "bare backward, peak": lambda r: f"{r['bare_peak'] / 2**20:.0f} MiB",
    "eap, peak": lambda r: f"{r['ours_peak'] / 2**20:.0f} MiB",
    "ratio ": lambda r: f"**{r['ours_peak'] / r['bare_peak']:.2f}×**",
    "asked": lambda r: "≤ 2× (10 prompts), ≤ 1.5×",
}
PEER: Columns = {
    "prompts × tokens": BARE["prompts × tokens"],
    "dtype": lambda r: r["dtype"],
    "edges": lambda r: f"{r['edges']:,}",
    "attribution_patch": lambda r: f"{r['peer_s']:.2f} s",
    "interp eap": lambda r: f"{r['ours_s']:.3f} s",
    "ratio": lambda r: f"**{r['ratio']:.1f}×**",
    "asked": lambda r: r["asked"],
    "largest difference": lambda r: f"{r['gap']:.1e} of {r['largest']:.2g}",
}


def against_bare(model: Any, prompts: int, tokens: int, device: str, repeats: int = 5) -> Row:
    """One row: seconds (medians of interleaved runs) and peak bytes."""
    task = task_of(model, tokens, 0, prompts)
    everyone = torch.arange(prompts, device=task.clean.device)
    calls: dict[str, Callable[[], Any]] = {
        "bare": partial(attribution.bare, model, task),
        "ours": partial(circuits.score_edges, model, task, memory=2**34),
    }
    for call in calls.values():
        call()  # warm
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, 1)[0])
    middle = {name: sorted(each)[repeats // 2] for name, each in seconds.items()}
    ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["bare"]))
    return {
        "prompts": prompts, "tokens": tokens, "bare_s": middle["bare"], "ours_s": middle["ours"],
        "ratio": ratios[repeats // 2], "ours_peak": peaks.peak(calls["ours"], device),
        "bare_peak": peaks.peak(partial(attribution.backward, model, task, everyone), device),
    }  # fmt: skip


def peer(python: Path, quick: bool) -> list[Row]:
    """The rows of circuits_eap_peer.py, run by another Python; none where there is none."""
    if not python.is_file():
        print(f"TransformerLens 4: skipped, there is no {python} (`make test-tl4` makes it)")
        return []
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [str(python), str(HERE / "circuits_eap_peer.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that the script works")
    parser.add_argument(
        "--model", help="a model by name (smollm2-135m) in place of a shape; prints 8 × 16 tokens"
    )
    parser.add_argument("--tl4", type=Path, default=HERE.parent / ".venv-tl4" / "bin" / "python")
    args = parser.parse_args()
    if args.model is not None:
        print(table(BARE, [against_bare(load(args.model), 8, 16, args.device)]))
        return
    model = model_of(GPT2 | (attribution.QUICK if args.quick else {}), args.device)
    rows = [against_bare(model, *batch, args.device) for batch in BATCHES]
    print(table(BARE, rows))
    others = peer(args.tl4, args.quick) if args.device == "cpu" else []
    print(table(PEER, others))
    if not args.quick:
        _write(args.device, rows, others)


def _write(device: str, rows: list[Row], others: list[Row]) -> None:
    release = _version("transformer-lens")
    where = f"{_device(device)}, {torch.get_num_threads()} threads, transformer-lens {release}"
    path = HERE / "results" / f"circuits-eap-{device}.md"
    text = f"# Edge attribution\n\n{where}, float32. GPT-2 small's shape, random weights, 32,491 edges.\n\n"
    text += table(BARE, rows)
    text += f"\n## Against TransformerLens 4's `attribution_patch`\n\n{table(PEER, others)}" if others else ""
    path.write_text(text)
    path.with_suffix(".json").write_text(json.dumps({"where": where, "rows": rows, "peer": others}, indent=1))
    print(path)


if __name__ == "__main__":
    main()
