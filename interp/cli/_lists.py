"""`interp models` and `interp tasks`: what can be named."""

from __future__ import annotations

import argparse
from typing import Any

from interp.cli._output import Output
from interp.models import available, get

OTHERS = """\
Others:
  a TransformerLens name     gpt2, pythia-70m, ... (from the hub or its cache)
  a folder                   config.json + model.safetensors + tokenizer, or the hub's own format
  a GGUF file                converted once into the user's cache
  smollm2-135m               a real language model, after: interp models get smollm2-135m"""
FILE_FORM = """\
A file of prompts (.jsonl, or .csv with the same keys), one pair a line; in .jsonl also token ids:
  {"clean": "... John gave a book to", "corrupt": "...", "answer": " Mary", "wrong": " John"}
  {"clean": [1, 318, 262], "corrupt": [1, 318, 257], "answer": 5335, "wrong": 1757}"""
_TITLES = {
    "bundled": "Trained, in the package:",
    "handmade": "Hand-built, with a known circuit (interp.models.handmade):",
}


def models(args: argparse.Namespace, out: Output) -> None:
    """The models of the package with their parameters and what they can do; with `get NAME`, fetch one."""
    if args.get:
        _get(args.get, out)
        return
    cards = available()
    for where, title in _TITLES.items():
        out.say(title, *(line for card in cards if card.where == where for line in _lines(card)))
    out.say(OTHERS)
    out.tell(
        models=[
            {
                "name": card.name, "where": card.where, "parameters": card.parameters,
                "description": card.description, "tasks": dict(card.tasks),
            }
            for card in cards
        ]
    )  # fmt: skip


def _get(words: list[str], out: Output) -> None:
    if words[0] != "get" or len(words) != 2:
        raise ValueError(f"interp models {' '.join(words)}: the one thing to say here is `get NAME`.")
    folder = get(words[1])
    out.say(f"{words[1]}: {folder}")
    out.tell(name=words[1], folder=str(folder))


def _lines(card: Any) -> list[str]:
    lines = [f"  {card.name:<12} {card.parameters:>10,} parameters  {card.description}"]
    if card.where == "bundled":
        shares = ", ".join(f"{name} {share:.1%}" for name, share in card.tasks.items())
        lines.append(f"  {'':<12} right on: {shares}")
    return lines


def tasks(args: argparse.Namespace, out: Output) -> None:
    """Every family with its description and the accuracy of each model that has been measured on it."""
    from interp.tasks import families

    cards, rows = available(), []
    for name, family in families().items():
        right = {card.name: card.tasks[name] for card in cards if name in card.tasks}
        shares = ", ".join(f"{model} {share:.1%}" for model, share in right.items())
        out.say(f"{name:<16} {family.description}", f"{'':<16} right: {shares or 'not measured'}")
        rows.append({"name": name, "description": family.description, "right": right})
    out.say(FILE_FORM)
    out.tell(tasks=rows)
