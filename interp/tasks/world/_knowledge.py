"""What the world knows: facts, and texts that contradict them.

Facts: capitals (data/tasks/capitals.json), birthplaces and countries, and the composition of the last two.
Each of the people, known by surname, was born in one capital; as many in each. A fact is known if it is
recalled in a wording in which it was never seen: for each fact one wording in three or four is held out.
For the composition (person → birthplace → country) whole people are held out, one of each city: their
birthplaces are taught, their countries never.

Conflict: a text contradicts a fact, and a cue word says which of the two to follow.
`The story says that the capital of France is Rome. In fiction, the capital of France is` → Rome;
`... In truth, the capital of France is` → Paris. Held out: pairs of subject and claim.
"""

from __future__ import annotations

import random

from interp.tasks import wordlists
from interp.tasks.world._grammar import Pair, held_out


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


class Conflict:
    """The cue decides between claim and fact. `follows`: which of them answers the clean prompt."""

    description = "the claim or the fact, as the cue word says"

    def __init__(self, follows: str | None = None) -> None:
        words = wordlists.load("world")["conflict"]
        self.name = "conflict" if follows is None else f"conflict_{follows}"
        self.cues: dict[str, list[str]] = {"fiction": words["fiction"], "truth": words["truth"]}
        self.sides = list(self.cues) if follows is None else [follows]
        self.media: list[str] = words["media"]
        self.forms: list[tuple[str, str]] = list(zip(words["claims"], words["questions"]))
        self.known = [capitals(), birthplaces()]

    def document(self, rng: random.Random) -> str:
        """Either cue, or both one after the other."""
        form, slots, false, true = self._draw(rng, test=False)
        text, asked = self.forms[form][0].format(**slots), self.forms[form][1]
        sides = [side for side in ("fiction", "truth") if rng.random() < 0.6] or ["truth"]
        rng.shuffle(sides)
        for side in sides:
            cue, value = rng.choice(self.cues[side]), false if side == "fiction" else true
            text += " " + asked.format(CUE=cue, **slots) + f" ^{value}."
        return text

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """The corrupt prompt has a cue of the other kind."""
        form, slots, false, true = self._draw(rng, test)
        side = rng.choice(self.sides)
        other = "truth" if side == "fiction" else "fiction"
        claim, asked = (text.format(CUE="{CUE}", **slots) for text in self.forms[form])
        clean, corrupt = (
            f"{claim} {asked}".format(CUE=rng.choice(self.cues[kind])) for kind in (side, other)
        )
        answer, wrong = (false, true) if side == "fiction" else (true, false)
        return Pair(clean, corrupt, (answer,), (wrong,), f"conflict {form} {slots['MEDIUM']}")

    def _draw(self, rng: random.Random, test: bool) -> tuple[int, dict[str, str], str, str]:
        while True:
            form = rng.randrange(len(self.forms))
            subject = rng.choice(list(self.known[form]))
            true = self.known[form][subject]
            false = rng.choice([city for city in self.known[0].values() if city != true])
            if held_out(f"conflict:{subject}:{false}") == test:
                return (
                    form,
                    {"SUBJECT": subject, "FALSE": false, "MEDIUM": rng.choice(self.media)},
                    false,
                    true,
                )
