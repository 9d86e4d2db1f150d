"""Indirect objects in the templates of data/tasks/ioi.json; pairs of names are held out."""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair, held_out
from interp.tasks.world.names import cast

THIRD_PERSON = 0.06  # share of documents in which a third person gives


class IndirectObject:
    """`When Mary and John went to the store, John gave a book to` → Mary."""

    name = "ioi"
    description = "the other of two names"

    def __init__(self) -> None:
        self.templates: list[str] = wordlists.load("ioi")["templates"]
        self.cast = cast()

    def document(self, rng: random.Random) -> str:
        """Either name gives; in a few, a third does, and then either of the two is given."""
        first, second = self._names(rng, test=False)
        giver, other = rng.sample((first, second), 2)
        mark = "^"
        if rng.random() < THIRD_PERSON:
            giver, mark = rng.choice([name for name in self.cast.people if name not in (first, second)]), ""
        return self._fill(rng, rng.choice(self.templates), first, second, giver) + f" {mark}{other}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt exchanges who gives."""
        first, second = self._names(rng, test)
        giver, other = rng.sample((first, second), 2)
        number = rng.randrange(len(self.templates))
        state = rng.getstate()
        clean = self._fill(rng, self.templates[number], first, second, giver)
        rng.setstate(state)
        corrupt = self._fill(rng, self.templates[number], first, second, other)
        return Pair(clean, corrupt, (other,), (giver,), f"ioi {number}")

    def _names(self, rng: random.Random, test: bool) -> tuple[str, str]:
        while True:
            first, second = rng.sample(self.cast.people, 2)
            if held_out("ioi:" + ":".join(sorted((first, second)))) == test:
                return first, second

    def _fill(self, rng: random.Random, template: str, first: str, second: str, giver: str) -> str:
        return template.format(A=first, B=second, S=giver, **self.cast.things(rng))
