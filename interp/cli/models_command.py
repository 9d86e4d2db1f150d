"""`interp models`: what `interp.load` and `interp patch` take as a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from interp.models.bundled import Card, available

OTHERS = """\
Others:
  a TransformerLens name     gpt2, pythia-70m, ... (from the hub or its cache)
  a folder                   config.json + model.safetensors + tokenizer, or the hub's own format"""


def run(args: argparse.Namespace) -> None:
    """Print the models of the package with their parameters and what they can do."""
    cards = available()
    print("Trained, in the package:")
    _list(card for card in cards if card.where == "bundled")
    print("Hand-built, with a known circuit (interp.models.handmade):")
    _list(card for card in cards if card.where == "handmade")
    print(OTHERS)


def _list(cards: Iterable[Card]) -> None:
    for card in cards:
        print(f"  {card.name:<12} {card.parameters:>10,} parameters  {card.description}")
        if card.where == "bundled":
            shares = ", ".join(f"{name} {share:.1%}" for name, share in card.tasks.items())
            print(f"  {'':<12} right on: {shares}")
