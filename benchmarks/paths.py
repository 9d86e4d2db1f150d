"""Path patching of all heads to one head's queries, keys and values, against a loop of full forwards.

    python benchmarks/paths.py [--quick] [--device cuda] [--peer PYTHON]

One run, as ratios. The loop is the usual one: for each sender and receiver run C with frozen heads under
hooks, then run D, both from the tokens; it is timed on paths spread evenly over the grid and scaled. Values
on these paths are compared. With --peer (the Python of an environment with TransformerLens 4) direct paths
(freeze="all") are compared with its `get_act_patch_direct_path` too, on a bridge to a small GPT-2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.models import logits

PARTS = ("q", "k", "v")
ROWS = (  # tokens, first difference, positions of sender and receiver, at least, aim
    (15, 0, "all", 10, 30),
    (15, 0, "last", 10, 30),
    (15, 10, "all", 10, 30),
)


def loop(
    model: Any, task: Any, receiver: tuple[int, int], paths: list[tuple[str, int, int]], last: bool
) -> tuple[np.ndarray, float]:
    """Raw metrics of run D by path (part, layer, head), and seconds a path; the caches are made before."""
    at = slice(-1, None) if last else slice(None)
    with torch.inference_mode():
        caches = [model.run_with_cache(tokens)[1] for tokens in (task.corrupt, task.clean)]
        start = time.perf_counter()
        found = [one(model, task, receiver, path, caches, at) for path in paths]
        return np.array(found), (time.perf_counter() - start) / len(paths)


def one(
    model: Any, task: Any, receiver: tuple[int, int], path: tuple[str, int, int], caches: list, at: slice
) -> float:
    """Runs C and D of one path, from the tokens."""
    (layer, head), (part, of, unit), (own, other) = receiver, path, caches
    kept: dict[str, torch.Tensor] = {}
    rows, name = torch.arange(len(task)), f"blocks.{layer}.attn.hook_{part}"

    def freeze(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z = own[hook.name].clone()
        if hook.name == f"blocks.{of}.attn.hook_z":
            z[:, at, unit] = other[hook.name][:, at, unit]
        return z

    def put(x: torch.Tensor, hook: Any) -> torch.Tensor:
        x = x.clone()
        x[:, at, head] = kept[name][:, at, head]
        return x

    keep = (name, lambda x, hook: kept.update({name: x.clone()}))
    with model.hooks(fwd_hooks=[(lambda n: n.endswith("attn.hook_z"), freeze), keep]):
        logits(model, task.corrupt)
    with model.hooks(fwd_hooks=[(name, put)]):
        after = logits(model, task.corrupt)[rows, task.positions]
    return (after[rows, task.answer] - after[rows, task.wrong]).mean().item()


def row(model: Any, task: Any, receiver: tuple[int, int], last: bool, most: int) -> dict[str, Any]:
    """Times, ratio, and the largest difference on the loop's paths."""
    from patching import timed

    layer, head = receiver
    names = [f"L{layer}H{head}.{part}" for part in PARTS]
    where = "last" if last else "all"
    call = partial(
        interp.path_patch, model, task, "heads", names, sender_positions=where, receiver_positions=where,
        progress=False,
    )  # fmt: skip
    call()  # the trust check comes with the first call
    ours, result = timed(call)
    with FlopCounterMode(display=False) as flops:
        call()
    below = [(p, at, h) for p in PARTS for at in range(layer) for h in range(model.cfg.n_heads)]
    picked = [below[i] for i in np.unique(np.linspace(0, len(below) - 1, min(most, len(below))).astype(int))]
    theirs, seconds = loop(model, task, receiver, picked, last)
    raw = (result["value"] + result["corrupt"]).mean("prompt")
    mine = np.array(
        [float(raw.sel(receiver=f"L{layer}H{head}.{p}", layer=at, head=h)) for p, at, h in picked]
    )
    base = float(result["corrupt"].mean())
    return {
        "tokens": task.clean.shape[1], "positions": where,
        "first_difference": int(task.first_difference.min()),
        "paths": len(below), "ours_s": ours, "loop_paths": len(picked), "loop_s": seconds * len(below),
        "ratio": seconds * len(below) / ours, "gap": float(np.abs(np.array(mine) - theirs).max()),
        "largest_effect": float(np.abs(theirs - base).max()), "flops": flops.get_total_flops(),
    }  # fmt: skip


PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
sys.path[:0] = ["tests"]
import architectures, small, interp
from interp.tasks import Task
from transformer_lens.patching import get_act_patch_direct_path
model = small.bridge("gpt2")
clean, corrupt = architectures.tokens(2)
task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[3, 4], wrong=[15, 16])
rows = torch.arange(2)
metric = lambda logits: (logits[rows, -1, task.answer] - logits[rows, -1, task.wrong]).mean()
gaps = []
with torch.inference_mode():
    caches = [model.run_with_cache(tokens)[1] for tokens in (clean, corrupt)]
    for part in "qkv":
        theirs = get_act_patch_direct_path(model, corrupt, *caches, metric, 0, 1, part, verbose=False)
        names = [f"L{l}H{h}.{part}" for l in (1, 2) for h in range(4)]
        ours = interp.path_patch(model, task, ["L0H1"], names, freeze="all", progress=False)
        raw = (ours["value"] + ours["corrupt"]).mean("prompt").values.reshape(2, 4)
        gaps.append(float(np.abs(raw - theirs.double().numpy()[1:]).max()))
print(json.dumps(dict(zip("qkv", gaps))))
"""


def peer(python: str) -> dict[str, float]:
    """Largest difference from TransformerLens 4's direct paths, by part."""
    done = subprocess.run([python, "-c", PEER], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(out: dict[str, Any]) -> str:
    """The figures as a table."""
    heads = ("tokens", "differ from", "positions", "paths", "ours, s", "loop, s", "ratio", "at least", "gap")
    lines = [f"# Path patching: all heads to one head's q, k, v ({out['device']})", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in out["rows"]:
        cells = [r["tokens"], r["first_difference"], r["positions"], r["paths"], f"{r['ours_s']:.3f}"]
        cells += [f"{r['loop_s']:.1f}", f"{r['ratio']:.0f}", f"{r['at_least']} (aim {r['aim']})"]
        lines += [f"| {' | '.join(map(str, cells))} | {r['gap']:.1e} of {r['largest_effect']:.2g} |"]
    if "peer" in out:
        gaps = ", ".join(f"{part} {gap:.1e}" for part, gap in out["peer"].items())
        lines += ["", f"Largest difference from TransformerLens 4's direct paths (float32): {gaps}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    from patching import GPT2, _device, model_of, task_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that the script works")
    parser.add_argument("--peer", help="the Python of an environment with TransformerLens 4")
    parser.add_argument("--name", default=None, help="name of the files in benchmarks/results")
    args = parser.parse_args()
    tiny = {"n_layers": 3, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 500}
    shape = GPT2 | (tiny if args.quick else {})
    model = model_of(shape, args.device)
    receiver = (2, 1) if args.quick else (9, 6)
    out: dict[str, Any] = {"device": _device(args.device), "threads": torch.get_num_threads(), "shape": shape}
    out["rows"] = []
    for n_pos, first, where, at_least, aim in ROWS:
        found = row(model, task_of(model, n_pos, first), receiver, where == "last", 6 if args.quick else 24)
        out["rows"].append(found | {"at_least": at_least, "aim": aim})
        print(f"{n_pos} tokens from {first}, {where}: {found['ratio']:.0f}x, gap {found['gap']:.1e}")
    if args.peer:
        out["peer"] = peer(args.peer)
        print(f"against TransformerLens 4: {out['peer']}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    name = args.name or ("paths-quick" if args.quick else f"paths-{args.device}")
    (folder / f"{name}.json").write_text(json.dumps(out, indent=1))
    (folder / f"{name}.md").write_text(markdown(out))
    print(folder / f"{name}.md")


if __name__ == "__main__":
    main()
