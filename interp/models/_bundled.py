"""The models that come with the package: trained ones, read from their cards, and hand-built ones.

Needs no torch and no network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from interp.files import data_dir
from interp.models import handmade


@dataclass(frozen=True)
class Card:
    """What a bundled model is."""

    name: str
    description: str
    parameters: int
    where: str = "bundled"  # or "handmade": its weights are written in code
    tasks: dict[str, float] = field(default_factory=dict)  # share of prompts it gets right, by task family


def available() -> list[Card]:
    """The models of the package, trained ones first. Every name that TransformerLens knows loads too."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(data_dir().glob("*/card.json"))]
    trained = [
        Card(card["name"], card["description"], card["parameters"], tasks=card.get("tasks", {}))
        for card in cards
    ]
    by_hand = [
        Card(name, entry.description, entry.sketch().n_parameters, "handmade", {name.replace("-", "_"): 1.0})
        for name, entry in handmade.MODELS.items()
    ]
    return trained + by_hand


def folder_of(name: str) -> Path | None:
    """The folder of a bundled trained model, or None when there is none of that name."""
    names = {path.parent.name for path in data_dir().glob("*/card.json")}
    return data_dir() / name if name in names else None
