"""`interp tasks`: the task families, how the models do on them, and the form of a file of prompts."""

from __future__ import annotations

import argparse

from interp.models.bundled import available

FILE_FORM = """\
A file of prompts (.jsonl, or .csv with the same keys), one pair a line:
  {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}"""


def run(args: argparse.Namespace) -> None:
    """Print every family with its description and the accuracy of each model that has been measured on it."""
    from interp.tasks import families

    cards = available()
    for name, family in families().items():
        print(f"{name:<16} {family.description}")
        shares = [f"{card.name} {card.tasks[name]:.1%}" for card in cards if name in card.tasks]
        print(f"{'':<16} right: {', '.join(shares) or 'not measured'}")
    print(FILE_FORM)
