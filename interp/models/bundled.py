"""The models that come with the package, read from their cards. Needs no torch and no network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from interp.models.files import data_dir


@dataclass(frozen=True)
class Card:
    """What a bundled model is."""

    name: str
    description: str
    parameters: int
    where: str = "bundled"


def available() -> list[Card]:
    """The bundled models, by name. Every name that TransformerLens knows can be loaded too."""
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(data_dir().glob("*/card.json"))]
    return [Card(card["name"], card["description"], card["parameters"]) for card in cards]


def folder_of(name: str) -> Path | None:
    """The folder of a bundled model, or None when there is none of that name."""
    names = {card.name for card in available()}
    return data_dir() / name if name in names else None
