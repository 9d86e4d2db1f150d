"""Pronouns by the gender of a name, feminine, masculine or neutral.

Held out: pairs of name and wording.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out
from interp.tasks.world.names import cast

CASES = ("subject", "possessive", "reflexive")


class Pronouns:
    """`Mary went to the store because` → she; Alex: they. Possessives and reflexives alike."""

    name = "pronouns"
    description = "she, he or they (her, his, their; herself, ...) by the name"

    def __init__(self) -> None:
        self.words = wordlists.load("world")["pronouns"]
        self.cast = cast()
        self.names = [self.cast.female, self.cast.male, self.cast.neutral]

    def document(self, rng: random.Random) -> str:
        """One sentence, ended as its case wants."""
        case, number, name, gender = self._draw(rng, test=False)
        things = self.cast.things(rng)
        text = self._template(case, number).format(A=name, **things)
        ending = rng.choice(self.words.get(f"{case}_endings", ["."])).format(OBJECT=things["OTHER"])
        return f"{text} ^{self.words[case][gender]} {ending}"

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt has a name of another gender."""
        case, number, name, gender = self._draw(rng, test)
        other = rng.choice([i for i in range(3) if i != gender])
        things = self.cast.things(rng)
        template = self._template(case, number)
        clean, corrupt = (
            template.format(A=person, **things) for person in (name, rng.choice(self.names[other]))
        )
        answer, wrong = ((self.words[case][i],) for i in (gender, other))
        return Pair(clean, corrupt, answer, wrong, f"pronouns {case} {number}")

    def _template(self, case: str, number: int) -> str:
        return self.words[f"{case}_templates"][number]

    def _draw(self, rng: random.Random, test: bool) -> tuple[str, int, str, int]:
        while True:
            case, gender = rng.choice(CASES), rng.randrange(3)
            number = rng.randrange(len(self.words[f"{case}_templates"]))
            name = rng.choice(self.names[gender])
            if held_out(f"pronouns:{name}:{case}:{number}") == test:
                return case, number, name, gender
