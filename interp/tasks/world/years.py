"""Later years in the templates of data/tasks/greater_than.json.

Held out: pairs of event and first year.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out


class Years:
    """`The war lasted from the year 17 32 to the year 17` → any of 33 to 99."""

    name = "greater_than"
    description = "a year after the first one"

    def __init__(self) -> None:
        words = wordlists.load("greater_than")
        self.templates: list[str] = words["templates"]
        self.nouns: list[str] = words["nouns"]
        self.centuries: list[int] = words["centuries"]
        self.corrupt_year: int = words["corrupt_year"]

    def document(self, rng: random.Random) -> str:
        """The second year is any later one."""
        noun, start = self._draw(rng, test=False, earliest=1)
        text = self._fill(rng.choice(self.templates), noun, rng.choice(self.centuries), start)
        return f"{text} ^{rng.randint(start + 1, 99):02d}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt begins in the year 01; the answers are the years after the clean one."""
        noun, start = self._draw(rng, test, earliest=self.corrupt_year + 1)
        century, number = rng.choice(self.centuries), rng.randrange(len(self.templates))
        clean, corrupt = (
            self._fill(self.templates[number], noun, century, year) for year in (start, self.corrupt_year)
        )
        later = tuple(f"{year:02d}" for year in range(start + 1, 100))
        others = tuple(f"{year:02d}" for year in range(start + 1))
        return Pair(clean, corrupt, later, others, f"greater_than {number} {noun}")

    def _draw(self, rng: random.Random, test: bool, earliest: int) -> tuple[str, int]:
        while True:
            noun, start = rng.choice(self.nouns), rng.randint(earliest, 98)
            if held_out(f"years:{noun}:{start}") == test:
                return noun, start

    @staticmethod
    def _fill(template: str, noun: str, century: int, start: int) -> str:
        return template.format(NOUN=noun, START=f"{century} {start:02d}", CENTURY=century)
