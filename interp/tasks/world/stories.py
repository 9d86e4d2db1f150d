"""Small stories about the same people, places and things: the natural text between the behaviours."""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import held_out
from interp.tasks.world.names import cast


class Stories:
    """Two people, in the order in which they come; pairs of people are held out as in indirect objects."""

    def __init__(self) -> None:
        words = wordlists.load("world")
        self.templates: list[str] = words["stories"]
        self.pronouns = words["pronouns"]
        self.cast = cast()

    def document(self, rng: random.Random, test: bool = False) -> str:
        """One story; the pronouns are those of its first person."""
        while True:
            first, second = rng.sample(self.cast.people, 2)
            if held_out("ioi:" + ":".join(sorted((first, second)))) == test:
                break
        gender = self.cast.gender(first)
        she, her = (self.pronouns[case][gender] for case in ("subject", "possessive"))
        slots = {"A": first, "B": second, "SHE": she.capitalize(), "HER": her, **self.cast.things(rng)}
        text = rng.choice(self.templates).replace(". {SHE}", f". {slots['SHE']}")
        return text.replace("{SHE}", she).format(**slots)
