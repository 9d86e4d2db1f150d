"""Exact patching by this package against `transformer_lens.patching`, in one run, as ratios.

    python benchmarks/patching.py [--quick] [--device cuda] [--shared ../shared/models]
    python benchmarks/patching.py --only 0 2    # two rows of the first table; writes nothing

The peer runs on cells spread evenly over each grid (all of them with --full) and is scaled to the whole grid;
our time is the whole call of `interp.patch`, capture, readout and Dataset included. Both give the same
numbers on the peer's cells, or the script says by how much they differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import memory
import numpy as np
import peer
import torch
import transformer_lens
from table import SPEED, markdown, table
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.tasks import Task, UnsolvedTask

ROWS = (  # site, by, tokens, first difference, at least, aim
    ("resid_pre", ("layer", "pos"), 15, 0, 25, 60),
    ("resid_pre", ("layer", "pos"), 15, 10, 60, 200),
    ("z", ("layer", "head"), 15, 0, 20, 40),
    ("z", ("layer", "head"), 15, 10, 40, 100),
    ("z", ("layer", "pos", "head"), 15, 10, 60, 200),
    ("resid_pre", ("layer", "pos"), 50, 0, 15, 40),
)
SPEC_MINIMUM = {("resid_pre", 15, 0): 0.132e12, ("resid_pre", 15, 10): 0.017e12}
GPT2 = {
    "n_layers": 12,
    "d_model": 768,
    "n_ctx": 1024,
    "d_head": 64,
    "n_heads": 12,
    "d_mlp": 3072,
    "d_vocab": 50257,
}


def model_of(shape: dict[str, int], device: str, **options: Any) -> Any:
    """A random HookedTransformer of a shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        settings = {"act_fn": "gelu_new", "normalization_type": "LN", "seed": 0, "device": device} | options
        cfg = transformer_lens.HookedTransformerConfig(**shape, **settings)
        return transformer_lens.HookedTransformer(cfg).eval()


def task_of(model: Any, n_pos: int, first: int, n: int = 1) -> Task:
    """Random prompts that differ from position `first` on."""
    generator = torch.Generator().manual_seed(0)
    high = model.cfg.d_vocab
    clean = torch.randint(1, high, (n, n_pos), generator=generator)
    corrupt = clean.clone()
    corrupt[:, first:] = (
        clean[:, first:] + torch.randint(1, high - 1, (n, n_pos - first), generator=generator)
    ) % high
    device = model.cfg.device
    ids = torch.arange(3, 3 + n)
    return Task.from_tokens(
        clean=clean.to(device), corrupt=corrupt.to(device), answer=ids.to(device), wrong=(ids + n).to(device)
    )


def timed(function: Any, repeats: int = 5) -> tuple[float, Any]:
    """Median seconds and the last result."""
    seconds = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        out = function()
        _wait()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), out


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def against_peer(model: Any, task: Task, site: str, by: tuple[str, ...], most: int) -> dict[str, Any]:
    """One row: times, ratio, and the largest difference on the peer's cells."""
    call = partial(interp.patch, model, task, site, by, progress=False)
    first, _ = timed(call, 1)
    ours, result = timed(call)
    raw = (result["value"] + result["corrupt"]).mean("prompt").transpose(*by).values
    other = peer.run(model, task, site, by, raw.shape, most)
    flops = FlopCounterMode(display=False)
    with flops:
        call()
    plan = interp.plan("patch", model, task, site, by)
    gap = float(np.abs(raw.ravel()[other.cells] - other.metric).max())
    return {
        "site": site, "by": list(by), "tokens": task.clean.shape[1], "prompts": len(task), "cells": raw.size,
        "first_difference": int(task.first_difference.min()), "ours_s": ours, "first_call_s": first,
        "peer_cells": len(other.cells), "peer_s": other.seconds_a_cell * raw.size,
        "ratio": other.seconds_a_cell * raw.size / ours, "gap": gap, "largest": float(np.abs(raw).max()),
        "flops": flops.get_total_flops(), "planned_flops": plan.flops, "naive_flops": plan.naive_flops,
    }  # fmt: skip


def scaling(device: str) -> list[dict[str, Any]]:
    """Time and planned FLOPs against layers, tokens, prompts and cells, one at a time."""
    shape = {
        "n_layers": 6,
        "d_model": 256,
        "n_ctx": 256,
        "d_head": 32,
        "n_heads": 8,
        "d_mlp": 1024,
        "d_vocab": 5000,
    }
    start = {"layers": 6, "tokens": 16, "prompts": 4, "by": ("layer", "pos")}
    changes = [
        {},
        {"layers": 3},
        {"layers": 12},
        {"tokens": 8},
        {"tokens": 32},
        {"prompts": 1},
        {"prompts": 16},
    ]
    changes += [{"by": ("layer", "head")}, {"by": ("layer", "pos", "head")}]
    rows = []
    for change in changes:
        now = start | change
        model = model_of(shape | {"n_layers": now["layers"]}, device)
        task = task_of(model, now["tokens"], 0, now["prompts"])
        site = "z" if "head" in now["by"] else "resid_pre"
        seconds, _ = timed(partial(interp.patch, model, task, site, now["by"], progress=False))
        plan = interp.plan("patch", model, task, site, now["by"])
        rows.append(now | {"site": site, "cells": plan.cells, "flops": plan.flops, "seconds": seconds})
    return rows


def trained(folder: Path, device: str, most: int) -> list[dict[str, Any]]:
    """Small trained models made by others: the he/she task of stories260K, and sorting letters."""
    rows = []
    if not folder.is_dir():
        return rows
    stories = interp.load(str(folder / "stories260K"), device=device)
    task = Task.from_prompts(
        stories,
        clean=["Once upon a time there was a boy named Tom.", "Once upon a time there was a girl named Sue."],
        corrupt=[
            "Once upon a time there was a girl named Tom.",
            "Once upon a time there was a boy named Sue.",
        ],
        answer=[" He", " She"],
        wrong=[" She", " He"],
    )
    sort = interp.load(str(folder / "llmviz_gpt_nano_sort"), device=device)
    clean, corrupt = torch.tensor([[2, 0, 1, 1, 0, 2]]), torch.tensor([[2, 2, 1, 1, 0, 2]])
    letters = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[0], wrong=[1])
    for name, model, each in (("stories260K", stories, task), ("llmviz_gpt_nano_sort", sort, letters)):
        for site, by in (
            ("resid_pre", ("layer", "pos")),
            ("z", ("layer", "head")),
            ("z", ("layer", "pos", "head")),
        ):
            rows.append({"model": name} | against_peer(model, each, site, by, most))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="run the peer on every cell")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that the script works")
    parser.add_argument("--shared", type=Path, default=Path("../shared/models"))
    parser.add_argument("--only", type=int, nargs="+", help="rows of the first table, by number from 0")
    parser.add_argument("--name", default=None, help="name of the files in benchmarks/results")
    args = parser.parse_args()
    warnings.simplefilter("ignore", UnsolvedTask)  # weights are random
    shape = GPT2 | (
        {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 500}
        if args.quick
        else {}
    )
    most = 10**9 if args.full else 24
    model = model_of(shape, args.device)
    out: dict[str, Any] = {"device": _device(args.device), "threads": torch.get_num_threads(), "shape": shape}
    out["versions"] = {"torch": torch.__version__, "transformer-lens": _version("transformer-lens")}
    out["rows"] = []
    for site, by, n_pos, first, least, aim in ROWS if args.only is None else [ROWS[n] for n in args.only]:
        row = against_peer(model, task_of(model, n_pos, first), site, by, most)
        row |= {"at_least": least, "aim": aim, "spec_minimum": SPEC_MINIMUM.get((site, n_pos, first))}
        out["rows"].append(row)
        print(f"{site} {by} {n_pos} tokens from {first}: {row['ratio']:.0f}x, gap {row['gap']:.1e}")
    if args.only is not None:
        print(table(SPEED, out["rows"]))
        return
    out["memory"] = memory.table(model, lambda n: task_of(model, 15, 0, n))
    out["scaling"] = scaling(args.device)
    out["trained"] = trained(args.shared, args.device, most)
    _write(out, args.name or ("quick" if args.quick else f"patching-{args.device}"))


def _device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _write(out: dict[str, Any], name: str) -> None:
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(out, indent=1))
    (folder / f"{name}.md").write_text(markdown(out))
    print(folder / f"{name}.md")


if __name__ == "__main__":
    main()
