"""The people, places and things that the behaviours share."""

from __future__ import annotations

import random
from dataclasses import dataclass

from interp.tasks import wordlists


@dataclass(frozen=True)
class Cast:
    """Words that several behaviours use."""

    female: list[str]
    male: list[str]
    neutral: list[str]
    places: list[str]
    objects: list[str]
    colours: list[str]

    @property
    def people(self) -> list[str]:
        """Every first name."""
        return [*self.female, *self.male, *self.neutral]

    def gender(self, name: str) -> int:
        """0 female, 1 male, 2 neutral: the order of every list of pronouns."""
        return 0 if name in self.female else 1 if name in self.male else 2

    def things(self, rng: random.Random) -> dict[str, str]:
        """Random fillers for the slots PLACE, OBJECT, OTHER and COLOUR."""
        thing, other = rng.sample(self.objects, 2)
        place, colour = rng.choice(self.places), rng.choice(self.colours)
        return {"PLACE": place, "OBJECT": thing, "OTHER": other, "COLOUR": colour}


def cast() -> Cast:
    """The words from the task files."""
    people = wordlists.load("world")["people"]
    ioi, colours = wordlists.load("ioi"), wordlists.load("coloured_objects")["colours"]
    return Cast(people["female"], people["male"], people["neutral"], ioi["places"], ioi["objects"], colours)
