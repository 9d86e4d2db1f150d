"""`interp models` and `interp tasks`: what can be named."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from interp.models import Card, available

OTHERS = """\
Others:
  a TransformerLens name     gpt2, pythia-70m, ... (from the hub or its cache)
  a folder                   config.json + model.safetensors + tokenizer, or the hub's own format"""


def models(args: argparse.Namespace) -> None:
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


FILE_FORM = """\
A file of prompts (.jsonl, or .csv with the same keys), one pair a line:
  {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}"""


def tasks(args: argparse.Namespace) -> None:
    """Print every family with its description and the accuracy of each model that has been measured on it."""
    from interp.tasks import families

    cards = available()
    for name, family in families().items():
        print(f"{name:<16} {family.description}")
        shares = [f"{card.name} {card.tasks[name]:.1%}" for card in cards if name in card.tasks]
        print(f"{'':<16} right: {', '.join(shares) or 'not measured'}")
    print(FILE_FORM)
