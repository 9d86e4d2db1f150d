"""Steered decoding against transformers' own unsteered decoding: milliseconds a token, and how often as fast.

    python benchmarks/decoding.py [--quick] [--rows 1 8] [--new 32] [--repeats 7]

SmolLM2-135M-Instruct (`interp models get smollm2-135m`), float32, greedy, with a key-value cache on both
sides; the same prompts of 31 tokens, the end of the text ignored. Every kind of steering runs in turn with
transformers, so that all meet the same neighbours; a ratio is the median of the ratios of single turns.
Tokens without steering are the same on both sides (said in the last column). --quick: a small random Llama
instead.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from patching import _device, _version, timed

import interp
from interp import positions, steering
from interp.models import anatomy
from interp.places import Place
from interp.steering import Direction

HERE = Path(__file__).resolve().parent
ASKED = {1: 1.2, 8: 1.8}
Calls = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a small random model, to see that the script works"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new", type=int, default=32, help="new tokens (default 32)")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = _small(Path(scratch) / "llama") if args.quick else None
        model, theirs = _both(folder)
    new, repeats = (4, 1) if args.quick else (args.new, args.repeats)
    rows = [row for n in args.rows for row in measured(model, theirs, n, new, repeats)]
    where = f"{_device('cpu')}, {torch.get_num_threads()} threads, float32, torch {torch.__version__}, "
    where += f"transformers {_version('transformers')}, transformer-lens {_version('transformer-lens')}"
    print(table(rows, where))
    if not args.quick:
        path = HERE / "results" / "decoding-cpu.md"
        path.write_text(table(rows, where))
        path.with_suffix(".json").write_text(json.dumps({"where": where, "rows": rows}, indent=1) + "\n")
        print(path)


def measured(model: Any, theirs: Any, n: int, new: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds a token of every kind of steering, and how often as fast as transformers it is."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, model.cfg.d_vocab, (n, 31), generator=generator)
    calls = ours(model, tokens, new) | {"transformers, unsteered": partial(_theirs, theirs, tokens, new)}
    same = bool(torch.equal(calls["unsteered"](), calls["transformers, unsteered"]()))
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(timed(call, 1)[0])
    base = np.array(seconds["transformers, unsteered"])
    return [
        {
            "rows": n,
            "steering": name,
            "ms": 1e3 * float(np.median(took)) / new,
            "same": same,
            "asked": ASKED.get(n),
        }
        | {"times": float(np.median(base / np.array(took)))}
        for name, took in seconds.items()
    ]


def ours(model: Any, tokens: torch.Tensor, new: int) -> Calls:
    """Our decoding, unsteered and steered."""
    facts = anatomy(model)
    vector = torch.randn(facts.d_model, generator=torch.Generator().manual_seed(1))
    one = Direction.from_tensor(vector, layer=facts.n_layers // 2)
    every = Direction({Place("resid_pre", layer): vector for layer in range(facts.n_layers)})
    kinds = {
        "unsteered": (),
        "one addition": steering.add(one, 1.0),
        "one addition, generated tokens": steering.add(one, 1.0, when=positions.generated),
        f"{facts.n_layers} additions": steering.add(every, 0.1),
        "ablation at every writer": steering.ablate(one.spread(steering.writers(facts))),
    }
    run = partial(steering.generate, model, tokens, max_new_tokens=new, stop=(), engine="fast")
    return {name: partial(run, edits) for name, edits in kinds.items()}


def _theirs(theirs: Any, tokens: torch.Tensor, new: int) -> torch.Tensor:
    options = {"do_sample": False, "max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0}
    with torch.inference_mode():
        return theirs.generate(tokens, attention_mask=torch.ones_like(tokens), eos_token_id=None, **options)


def _both(folder: Path | None) -> tuple[Any, Any]:
    """Our model, and transformers' of the same folder."""
    from transformers import AutoModelForCausalLM

    from interp.models import _load

    name = "smollm2-135m" if folder is None else str(folder)
    source = _load.source_folder(name)
    return interp.load(name), AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


def _small(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(
        folder
    )
    return folder


def table(rows: list[dict[str, Any]], where: str) -> str:
    """As Markdown."""
    lines = ["# Steered decoding against transformers", "", f"{where}.", ""]
    lines += [
        "| rows | steering | ms a token | times as fast as transformers | asked | same tokens unsteered |",
        "|--:|---|--:|--:|--:|---|",
    ]
    for row in rows:
        asked = "" if row["asked"] is None else f"{row['asked']:g}"
        cells = (
            row["rows"],
            row["steering"],
            f"{row['ms']:.1f}",
            f"{row['times']:.2f}",
            asked,
            "yes" if row["same"] else "no",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
