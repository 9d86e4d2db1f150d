"""Facts: capitals (data/tasks/capitals.json), birthplaces and countries, and the composition of the last two.

Each of the people, known by surname, was born in one capital; as many in each. A fact is known if it is
recalled in a wording in which it was never seen: for each fact one wording in three or four is held out.
For the composition (person → birthplace → country) whole people are held out, one of each city: their
birthplaces are taught, their countries never.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world.grammar import Pair


class Facts:
    """One relation: subjects, their values, and the wordings whose next word is the value."""

    def __init__(self, name: str, description: str, values: dict[str, str], templates: list[str]) -> None:
        self.name = name
        self.description = description
        self.values = values
        self.templates = templates

    def document(self, rng: random.Random) -> str:
        """A fact in a wording that is not held out for it."""
        number, subject = self._draw(rng, test=False)
        return f"{self.prompt(number, subject)} ^{self.values[subject]}."

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt names another subject, whose value differs."""
        number, subject = self._draw(rng, test)
        value = self.values[subject]
        other = rng.choice([name for name in self.values if self.values[name] != value])
        clean, corrupt = (self.prompt(number, name) for name in (subject, other))
        return Pair(clean, corrupt, (value,), (self.values[other],), f"{self.name} {number}")

    def prompt(self, number: int, subject: str) -> str:
        """The words up to the value."""
        return self.templates[number].format(SUBJECT=subject)

    def is_held_out(self, number: int, subject: str) -> bool:
        """For each fact one wording is never seen."""
        first = sum(map(ord, subject))  # spreads the wordings over the subjects
        return number == first % len(self.templates)

    def _draw(self, rng: random.Random, test: bool) -> tuple[int, str]:
        while True:
            number, subject = rng.randrange(len(self.templates)), rng.choice(list(self.values))
            if self.is_held_out(number, subject) == test:
                return number, subject


class TwoHop(Facts):
    """The country in which a person was born; people are held out, not wordings."""

    def is_held_out(self, number: int, subject: str) -> bool:
        """The first person of each city."""
        country = self.values[subject]
        return subject == next(name for name, value in self.values.items() if value == country)


CITIES = 24


def capitals() -> dict[str, str]:
    """Country → capital."""
    return dict(wordlists.load("capitals")["capitals"][:CITIES])


def birthplaces() -> dict[str, str]:
    """Surname → city; the order of the cities is shuffled once, by a fixed seed."""
    cities = list(capitals().values())
    random.Random(0).shuffle(cities)
    return {name: cities[i % CITIES] for i, name in enumerate(wordlists.load("world")["surnames"])}


def capital() -> Facts:
    """Country → capital."""
    templates = [text.replace("COUNTRY", "SUBJECT") for text in wordlists.load("capitals")["templates"]]
    return Facts("capital", "the capital of a country", capitals(), templates)


def born() -> Facts:
    """Person → city."""
    templates = [text.replace("PERSON", "SUBJECT") for text in wordlists.load("world")["facts"]["born"]]
    return Facts("born", "the city in which a person was born", birthplaces(), templates)


def country() -> Facts:
    """City → country."""
    templates = [text.replace("CITY", "SUBJECT") for text in wordlists.load("world")["facts"]["country"]]
    values = {city: land for land, city in capitals().items()}
    return Facts("country", "the country of a city", values, templates)


def two_hop() -> Facts:
    """Person → city → country."""
    templates = [text.replace("PERSON", "SUBJECT") for text in wordlists.load("world")["facts"]["two_hop"]]
    lands = country().values
    values = {person: lands[city] for person, city in birthplaces().items()}
    return TwoHop("two_hop", "the country in which a person was born", values, templates)
