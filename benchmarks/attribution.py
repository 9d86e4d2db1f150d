"""Estimates by this package against bare passes and against TransformerLens 4's own, in one run, as ratios.

    python benchmarks/attribution.py [--quick] [--device cuda] [--tl4 .venv-tl4/bin/python]

1. `atp` and `relp` on resid_pre, attn_out, mlp_out and z of a model of GPT-2 small's shape with random
   weights, against two bare forwards and one backward of the same batch: time, and peak memory above what
   was there before. Bare: the model's own forward, once without and once with the graph, the logit
   difference, and its gradient in the token embeddings alone, which costs no gradient of a weight.
   (`.backward()`, which differentiates the weights too, is timed beside it.)
2. A whole (layer, pos) grid of three sites by `relp` against `attribution_patch` of TransformerLens 4, which
   scores its nodes: in a process of its own (attribution_peer.py), where there is that release. The peer too
   makes two forwards and one backward, but prompt by prompt, so batching is all that can be gained.
3. Passes counted, on a tiny shape: `ig` with m steps costs m backwards, whatever the number of sites.

The whole table takes under five minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attribution_table
import passes
import peaks
import torch
from patching import GPT2, _device, _version, model_of, task_of, timed

import interp
from interp.methods import IG, Atp, Relp
from interp.tasks import UnsolvedTask

HERE = Path(__file__).resolve().parent
SITES = ("resid_pre", "attn_out", "mlp_out", "z")
BATCHES = ((1, 15), (16, 15))  # prompts, tokens
QUICK = {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 500}
METHODS = ("atp", "relp", "secant")
MOST_TIME, MOST_MEMORY, LEAST_RATIO = 0.5, 1.5, 6.0
REPEATS = 3  # after a first call that is not timed


def bare(model: Any, task: Any, weights: bool = False) -> None:
    """Two forwards, and one backward to the embeddings (or, with `.backward()`, to the weights)."""
    rows = torch.arange(len(task), device=task.clean.device)
    with torch.no_grad():
        model(task.clean)
    backward(model, task, rows, weights)


def backward(model: Any, task: Any, rows: torch.Tensor, weights: bool = False) -> None:
    """One forward with its graph, and the backward."""
    kept: list[torch.Tensor] = []

    def leaf(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        kept.append(tensor.detach().requires_grad_(True))
        return kept[0]

    with model.hooks(fwd_hooks=[] if weights else [("hook_embed", leaf)]):
        last = model(task.corrupt)[rows, task.positions]
    value = (last[rows, task.answers[:, 0]] - last[rows, task.wrongs[:, 0]]).sum()
    if weights:
        value.backward()
        model.zero_grad(set_to_none=True)
    else:
        torch.autograd.grad(value, kept)


def against_bare(model: Any, prompts: int, tokens: int, device: str) -> dict[str, Any]:
    """One row: seconds and peak bytes of the bare passes and of every method, medians of interleaved runs."""
    task = task_of(model, tokens, 0, prompts)
    rows = torch.arange(prompts, device=task.clean.device)
    calls: dict[str, Callable[[], Any]] = {
        "bare": partial(bare, model, task),
        "weights": partial(bare, model, task, True),
        **{
            method: partial(
                interp.attribute, model, task, SITES, "layer", method=method, progress=False, memory=2**34
            )
            for method in METHODS
        },
    }
    for call in calls.values():
        call()  # warm
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            seconds[name].append(timed(call, 1)[0])
    calls["backward"] = partial(backward, model, task, rows)
    return {
        "prompts": prompts, "tokens": tokens,
        "seconds": {name: sorted(each)[len(each) // 2] for name, each in seconds.items()},
        "ratio": {
            name: sorted(a / b for a, b in zip(each, seconds["bare"]))[len(each) // 2]
            for name, each in seconds.items()
        },
        "peak": {name: peaks.peak(call, device, 1) for name, call in calls.items()},
    }  # fmt: skip


def counted(device: str) -> list[dict[str, Any]]:
    """Forwards and backwards that really happened, by method, steps and sites."""
    model = model_of(GPT2 | QUICK, device)
    task = task_of(model, 15, 0, 2)
    rows = []
    for method in (Atp(), Relp(), IG(steps=4), IG(steps=8)):
        for sites in (SITES[:1], SITES):
            with passes.counted(model) as count:
                interp.attribute(
                    model, task, sites, "layer", method=method, engine="reference", progress=False
                )
            rows.append({"method": method.name, **method.attrs(), "sites": len(sites), **count})
    return rows


def peer(python: Path, quick: bool) -> dict[str, Any] | None:
    """The figures of attribution_peer.py, run by another Python; None where there is none."""
    if not python.is_file():
        print(f"TransformerLens 4: skipped, there is no {python} (`make test-tl4` makes it)")
        return None
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [str(python), str(HERE / "attribution_peer.py"), *(["--quick"] if quick else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that the script works")
    parser.add_argument("--model", help="a model by name (smollm2-135m) in place of a shape; 8 × 16 tokens")
    parser.add_argument("--tl4", type=Path, default=HERE.parent / ".venv-tl4" / "bin" / "python")
    parser.add_argument("--name", default=None, help="name of the files in benchmarks/results")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UnsolvedTask)  # weights are random
    shape = GPT2 | (QUICK if args.quick else {})
    shape = shape if args.model is None else {"model": args.model}
    model = model_of(shape, args.device) if args.model is None else interp.load(args.model)
    out: dict[str, Any] = {"device": _device(args.device), "threads": torch.get_num_threads(), "shape": shape}
    out["versions"] = {"torch": torch.__version__, "transformer-lens": _version("transformer-lens")}
    out["aims"] = {"time": MOST_TIME, "memory": MOST_MEMORY, "peer": LEAST_RATIO}
    out["rows"] = [
        against_bare(model, *batch, args.device) for batch in (BATCHES if args.model is None else ((8, 16),))
    ]
    del model
    out["counted"] = counted(args.device)
    out["peer"] = peer(args.tl4, args.quick) if args.model is None else None
    text = attribution_table.markdown(out)
    name = args.name or ("attribution-quick" if args.quick else f"attribution-{args.model or args.device}")
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    print(folder / f"{name}.md")


if __name__ == "__main__":
    main()
