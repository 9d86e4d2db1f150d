"""What steering costs, as ratios in one run, and the same work by the `steering-vectors` package.

    python benchmarks/steering.py [--quick] [--device cuda] [--shared ../shared/models] [--peer PYTHON]

1. Decoding with a key-value cache, time of a token: one addition, one at every layer, a direction ablated at
   every writer, the same baked into the weights; against the loop unsteered, and the model itself unsteered.
2. `sweep` against a whole forward under hooks for every layer and coefficient; `extract` against
   `run_with_cache` on the same batches.
3. Extraction and generation against `steering-vectors`, in a Python of its own (steering_peer.py), and which
   tokens either steers under a cache. Skipped where there is no such Python.

Ratios are medians of those of interleaved runs. Models: 12 layers, 256 wide, random; stories260K.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import steering_against
import steering_table as tables
import torch
from patching import _device, _version, model_of, timed

import interp
from interp import steering
from interp.models import anatomy
from interp.places import Place
from interp.steering._direction import Direction
from interp.tasks import KL

HERE = Path(__file__).resolve().parent
SHAPE = {
    "n_layers": 12, "d_model": 256, "n_ctx": 256, "d_head": 32, "n_heads": 8, "d_mlp": 1024, "d_vocab": 5000,
}  # fmt: skip
QUICK = {"n_layers": 3, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "d_vocab": 500}
NINE = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
Row = dict[str, Any]
Calls = dict[str, Callable[[], Any]]


def interleaved(calls: Calls, repeats: int) -> dict[str, list[float]]:
    """Seconds of every call, in turn, so that all meet the same neighbours."""
    for call in calls.values():
        call()  # warm
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, 1)[0])
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, base: str) -> float:
    """Median of the ratios of the runs."""
    return float(np.median(np.array(seconds[name]) / np.array(seconds[base])))


def decoding(name: str, model: Any, rows: int, new: int, repeats: int) -> list[Row]:
    """Time of a token under each kind of steering, against none."""
    tokens, facts, vector = _tokens(model, rows, 16), anatomy(model), _vector(model)
    one = Direction.from_tensor(vector, layer=facts.n_layers // 2)
    every = Direction({Place("resid_pre", layer): vector for layer in range(facts.n_layers)})
    ablation = steering.ablate(one.spread(steering.writers(facts)))
    run = partial(steering.generate, model, tokens, max_new_tokens=new)
    other = copy.deepcopy(model)
    steering.bake(other, ablation)
    calls: Calls = {
        "model": partial(run, engine="reference"),
        "none": run,
        "one addition": partial(run, steering.add(one, 2.0)),
        f"{facts.n_layers} additions": partial(run, steering.add(every, 0.5)),
        "ablation at every writer": partial(run, ablation),
        "the same baked": partial(steering.generate, other, tokens, max_new_tokens=new),
    }
    seconds = interleaved(calls, repeats)
    same = torch.equal(calls["the same baked"](), calls["ablation at every writer"]())
    asked = (1.1, 1.25, 1.2, 1.0)
    return [
        {"model": name, "rows": rows, "new": new, "steering": kind, "asked": limit, "same": same}
        | {"none_ms": 1e3 * float(np.median(seconds["none"])) / new}
        | {"ms": 1e3 * float(np.median(seconds[kind])) / new, "ratio": ratio(seconds, kind, "none")}
        | {"model_ms": 1e3 * float(np.median(seconds["model"])) / new}
        | {"ratio_to_model": ratio(seconds, kind, "model")}
        for kind, limit in zip(list(calls)[2:], asked)
    ]


def sweeping(name: str, model: Any, prompts: int, n_pos: int, repeats: int) -> list[Row]:
    """`sweep` against a whole forward under hooks for every layer and coefficient, with the same metric."""
    tokens, n = _tokens(model, prompts, n_pos), model.cfg.n_layers
    last = range(n - max(1, n // 3), n)
    found = []
    for layers, steps, asked in (
        (last, NINE, 0.6),
        (last, [2.0], 0.6),
        (range(n), NINE, 0.5),
        (range(1, 2), NINE, 0.5),
    ):
        parts = [Direction.from_tensor(_vector(model), layer=layer) for layer in layers]
        calls: Calls = {
            "ours": partial(
                steering.sweep, model, parts, tokens, steps, metric=KL(), with_controls=False, progress=False
            ),
            "whole": partial(_whole, model, parts, tokens, steps),
        }
        seconds = interleaved(calls, repeats)
        gap = abs(calls["ours"]()["raw"].values.transpose(1, 2, 0) - calls["whole"]()).max()
        found.append(
            {
                "model": name,
                "prompts": prompts,
                "tokens": n_pos,
                "layers": f"{layers[0]} to {layers[-1]} of {n}",
            }
            | {"coefficients": len(steps), "gap": float(gap), "asked": asked}
            | {side: float(np.median(seconds[side])) for side in calls}
            | {"ratio": ratio(seconds, "ours", "whole")}
        )
    return found


def _whole(model: Any, parts: list[Direction], tokens: torch.Tensor, steps: list[float]) -> np.ndarray:
    """KL [layer, coefficient, prompt], one forward under hooks for each."""
    with torch.no_grad():
        clean = model(tokens)[:, -1].log_softmax(-1)
        out = []
        for part in parts:
            for step in steps:
                with steering.steer(model, steering.add(part, step)):
                    log = model(tokens)[:, -1].log_softmax(-1)
                out.append((clean.exp() * (clean - log)).sum(-1))
    return torch.stack(out).view(len(parts), len(steps), -1).cpu().numpy()


def extracting(name: str, model: Any, prompts: int, n_pos: int, repeats: int) -> list[Row]:
    """`extract` at layers of the stream against `run_with_cache` of the same prompts."""
    up, down = _tokens(model, prompts, n_pos), _tokens(model, prompts, n_pos, seed=1)
    found = []
    for what, layers in (("all", None), ("the middle one", model.cfg.n_layers // 2)):
        calls: Calls = {
            "ours": partial(steering.mean_difference, model, up, down, layer=layers),
            "cache": partial(_cached, model, (up, down), layers),
        }
        seconds = interleaved(calls, repeats)
        ours, theirs = calls["ours"](), calls["cache"]()
        gap = max(float((v - theirs[place.layer]).abs().max()) for place, v in ours.vectors.items())
        found.append(
            {"model": name, "prompts": prompts, "tokens": n_pos, "layers": what, "gap": gap, "asked": 0.7}
            | {side: float(np.median(seconds[side])) for side in calls}
            | {"ratio": ratio(seconds, "ours", "cache")}
        )
    return found


def _cached(
    model: Any, sides: tuple[torch.Tensor, ...], layers: int | None
) -> dict[int | None, torch.Tensor]:
    """Mean differences at the last token from run_with_cache, in batches of 32."""
    means: list[dict[int, torch.Tensor]] = []
    chosen = range(model.cfg.n_layers) if layers is None else (layers,)
    with torch.no_grad():
        for tokens in sides:
            caches = [model.run_with_cache(batch)[1] for batch in tokens.split(32)]
            means.append({i: torch.cat([c["resid_pre", i][:, -1] for c in caches]).mean(0) for i in chosen})
    return {i: means[0][i] - means[1][i] for i in chosen}


def _tokens(model: Any, rows: int, n_pos: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, model.cfg.d_vocab, (rows, n_pos), generator=generator).to(model.cfg.device)


def _vector(model: Any) -> torch.Tensor:
    return torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0)).to(model.cfg.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to see that the script works")
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared" / "models")
    parser.add_argument("--peer", type=Path, default=None, help="a Python that has steering-vectors")
    args = parser.parse_args()
    models = {"12 layers, random": model_of(SHAPE | (QUICK if args.quick else {}), args.device)}
    if (args.shared / "stories260K").is_dir():
        models["stories260K"] = interp.load(str(args.shared / "stories260K"), device=args.device)
    repeats, new, size = (1, 4, (4, 8)) if args.quick else (7, 32, (16, 24))
    out: dict[str, list[Row]] = {"decoding": [], "sweeping": [], "extracting": []}
    for name, model in models.items():
        for rows in (1, 8):
            out["decoding"] += decoding(name, model, rows, new, repeats)
        out["sweeping"] += sweeping(name, model, *size, max(1, repeats // 2))
        out["extracting"] += extracting(name, model, 2 * size[0], size[1], repeats)
    out["peer"] = steering_against.rows(args.peer, args.shared, args.quick) if args.device == "cpu" else []
    print(tables.everything(out))
    if not args.quick:
        _write(out, args.device)


def _write(out: dict[str, list[Row]], device: str) -> None:
    versions = {"torch": torch.__version__, "transformer-lens": _version("transformer-lens")}
    where = f"{_device(device)}, {torch.get_num_threads()} threads, {versions}, float32"
    path = HERE / "results" / f"steering-{device}.md"
    path.write_text(f"# Steering: what it costs\n\n{where}.\n\n{tables.everything(out)}")
    path.with_suffix(".json").write_text(json.dumps({"where": where, **out}, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
