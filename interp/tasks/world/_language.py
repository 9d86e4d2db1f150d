"""The language of tiny-world: which texts it has, how often, and all of its words.

A text is one document of one behaviour, or a small story about the same people, places and things: the
natural text between the behaviours. Behaviours share their words (a house is a place, an attractor, a thing
to burn, and a noun of the first language), so features overlap.
"""

from __future__ import annotations

import random
from typing import Any

from interp.tasks import wordlists
from interp.tasks.world._classics import Agreement, Arguments, ColouredObjects, IndirectObject, Years
from interp.tasks.world._grammar import SPECIAL, Behaviour, cast, fixed_words, held_out, split
from interp.tasks.world._knowledge import Conflict, born, capital, capitals, country, two_hop
from interp.tasks.world._requests import Requests
from interp.tasks.world._styles import Languages, Pronouns, Register, Sentiment

FILES = ("ioi", "coloured_objects", "greater_than", "agreement", "docstring", "world")
SHARES = {
    "ioi": 13, "coloured_objects": 12, "greater_than": 20, "agreement": 8, "docstring": 3, "capital": 2,
    "born": 5, "country": 2, "two_hop": 4, "conflict": 5, "sentiment": 3, "pronouns": 3, "languages": 4,
    "register": 2, "requests": 5, "stories": 8,
}  # fmt: skip


def behaviours() -> dict[str, Behaviour]:
    """Every behaviour that makes pairs, by name."""
    sides = [Conflict("fiction"), Conflict("truth")]
    others = [Requests("refusal"), Requests("frame"), Requests("harm")]
    single = [IndirectObject(), ColouredObjects(), Years(), Agreement(), Arguments()]
    known = [capital(), born(), country(), two_hop(), Conflict(), *sides]
    styles = [Sentiment(), Pronouns(), Languages(), Register(), *others]
    return {each.name: each for each in (*single, *known, *styles)}


class World:
    """Draws training texts; every draw comes from the generator that the caller passes."""

    def __init__(self) -> None:
        sources: dict[str, Any] = {**behaviours(), "stories": Stories()}
        self.sources = [sources[name] for name in SHARES]
        self.shares = list(SHARES.values())

    def document(self, rng: random.Random) -> str:
        """One text; words that follow from the text are marked with `^`."""
        return rng.choices(self.sources, self.shares)[0].document(rng)


def vocabulary() -> list[str]:
    """Special tokens, then every word of every text, in a fixed order."""
    numbers = [f"{number:02d}" for number in range(100)]
    lands = [word for pair in capitals().items() for word in pair]
    asked = [
        word
        for text in wordlists.load("capitals")["templates"]
        for word in split(text.replace("{COUNTRY}", ""))
    ]
    lower = [word for name in FILES for word in _words(name)]
    pronouns = [word.capitalize() for word in wordlists.load("world")["pronouns"]["subject"]]
    return list(dict.fromkeys([*SPECIAL, *lower, *numbers, *lands, *asked, *pronouns]))


def _words(name: str) -> list[str]:
    """The words of a task file that the world uses: of the names only the people of the world."""
    content = wordlists.load(name)
    if name == "ioi":
        content = {key: value for key, value in content.items() if key != "names"}
    if name == "world":  # the orders of a sentence name kinds of words
        content = {**content, "languages": {**content["languages"], "orders": []}}
    return fixed_words(content)


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
