"""`interp tasks`: the task families, and the form of a file of prompts."""

from __future__ import annotations

import argparse

FILE_FORM = """\
A file of prompts (.jsonl, or .csv with the same keys), one pair a line:
  {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}"""


def run(args: argparse.Namespace) -> None:
    """Print every family with its description."""
    from interp.tasks import families

    for name, family in families().items():
        print(f"{name:<14} {family.description}")
    print(FILE_FORM)
