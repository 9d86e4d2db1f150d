"""`interp models`: what `interp.load` and `interp patch` take as a model."""

from __future__ import annotations

import argparse
import json

from interp.models.bundled import available
from interp.models.files import data_dir

OTHERS = """\
Others:
  a TransformerLens name     gpt2, pythia-70m, ... (from the hub or its cache)
  a folder                   config.json + model.safetensors + tokenizer, or the hub's own format"""


def run(args: argparse.Namespace) -> None:
    """Print the bundled models with their parameters and accuracy."""
    print("Bundled, offline:")
    for card in available():
        print(f"  {card.name:<12} {card.parameters:>10,} parameters  {card.description}")
        for line in _accuracy(card.name):
            print(f"  {'':<12} {line}")
    print(OTHERS)


def _accuracy(name: str) -> list[str]:
    """What the card says of held-out prompts."""
    figures = json.loads((data_dir() / name / "card.json").read_text(encoding="utf-8")).get("figures", {})
    shown = {"ioi_answer_above_wrong": "IOI", "copying_argmax": "copying"}
    parts = [f"{words} {figures[key]:.2%}" for key, words in shown.items() if key in figures]
    return [f"right on held-out prompts: {', '.join(parts)}"] if parts else []
