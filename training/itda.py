"""A dictionary of SmolLM2's middle layer, made without training (ITDA), small enough to be kept in a file.

1. Read the stream before the middle layer of SmolLM2-135M-Instruct on texts, all tokens but the first.
2. Atoms by `interp.sae.methods.itda`, at most --limit of them: unit vectors of named tokens.
3. Report on texts that were held out: `interp.sae.report`, and the variance left by as many random tokens.

`python training/itda.py out/smollm2-itda` writes the folder in SAELens's format, with its card; the weights
are --limit × 576 numbers (590 kB in half precision for 512), and the card says how good they are.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import interp
from interp import sae
from interp.sae.methods import _itda, itda

MODEL, K, THRESHOLD = "smollm2-135m", 16, 0.35


def texts() -> list[str]:
    """The pages of this project's documentation, in pieces: what is always there, and real English."""
    pages = sorted((Path(__file__).resolve().parents[1] / "docs").rglob("*.md"))
    pieces = [piece.strip() for page in pages for piece in page.read_text(encoding="utf-8").split("\n\n")]
    return [piece for piece in pieces if len(piece) > 200 and not piece.startswith(("```", "|"))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--n", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    args = parser.parse_args()
    model = interp.load(MODEL)
    place = f"L{model.cfg.n_layers // 2}.resid_pre"
    rows = [model.to_tokens(text)[0, : args.tokens].tolist() for text in texts()]
    test, train = rows[::5][: args.n // 4], [row for i, row in enumerate(rows) if i % 5][: args.n]
    made = itda(model, place, train, k=K, threshold=THRESHOLD, limit=args.limit)
    found = sae.report(model, made, test)
    card: dict[str, Any] = {
        "figures": {str(n): round(float(v), 4) for n, v in found["estimate"].to_series().items()},
        "random_tokens_fvu": round(_random(model, made, train, test), 4), "place": place, "k": K,
        "threshold": THRESHOLD, "atoms": made.n_features, "trained_on": sum(len(row) - 1 for row in train),
        **{name: found.attrs[name] for name in ("n_tokens", "dead", "dense")},
    }  # fmt: skip
    made.to(torch.float16).save(args.folder)
    (args.folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


def _random(model: Any, made: sae.Dictionary, train: list[list[int]], test: list[list[int]]) -> float:
    """The variance that as many random tokens leave."""
    place = interp.places.parse(str(made.place))
    x = _itda._tokens(model, train, place, 1, None)
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: made.n_features]
    atoms = torch.nn.functional.normalize(x[drawn], dim=1)
    d = _itda.of_atoms(atoms, K, place=place, names=[(0, 0)] * len(atoms), threshold=THRESHOLD)
    return float(sae.check(model, d, test))


if __name__ == "__main__":
    main()
