"""The language that tiny-ioi is trained on: some 300 words, one token each, and sentences of three kinds.

* Indirect objects, from the templates and words of data/tasks/ioi.json: `When Mary and John went to the
  store, John gave a book to Mary.` Either of the two names can come first and either can give, so the
  sentence itself says who is given. In a few, a third person gives, and either of the two is given.
* Years, from data/tasks/greater_than.json: `The war lasted from the year 17 32 to the year 17 45.`
* Plain sentences about the same names, places and objects.

Pairs of names are split in two by a hash: sentences with a held-out pair are never trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import dataclass
from typing import Any

from interp.files import data_dir
from interp.tasks.world import SPECIAL, split

THIRD_PERSON = 0.06
HELD_OUT_ONE_IN = 8
PLAIN = (
    "{A} went to the {PLACE}.",
    "{A} met {B} at the {PLACE}.",
    "{A} and {B} had fun.",
    "{A} had a {OBJECT}.",
    "{A} found a {OBJECT} at the {PLACE}.",
    "The {OBJECT} was at the {PLACE}.",
    "The {PLACE} was quiet.",
    "{A} showed the {OBJECT} to {B}.",
    "One day, {A} got a {OBJECT}.",
    "{A} and {B} were friends.",
    "The {NOUN} began in the year {CENTURY} {YEAR}.",
    "The {NOUN} was over.",
)


@dataclass(frozen=True)
class Prompt:
    """Words up to the answer, the answer, and the name that must not be given instead."""

    words: tuple[str, ...]
    answer: str
    wrong: str


def held_out(first: str, second: str, seed: int) -> bool:
    """Whether the pair of names (in either order) is kept out of training."""
    key = f"{seed}:{':'.join(sorted((first, second)))}"
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


class Language:
    """The words and the sentences; every draw comes from the generator that the caller passes."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.ioi = _task_words("ioi")
        self.years = _task_words("greater_than")
        self.names: list[str] = self.ioi["names"]

    def vocabulary(self) -> list[str]:
        """Special tokens, then every word, in a fixed order."""
        years = [f"{year:02d}" for year in range(100)]
        lists = [self.names, self.ioi["places"], self.ioi["objects"], self.years["nouns"], years]
        templates = [*self.ioi["templates"], *self.years["templates"], *PLAIN]
        fixed = [word for text in templates for word in split(re.sub(r"\{\w+\}", " ", text))]
        return list(dict.fromkeys([*SPECIAL, *(word for words in lists for word in words), *fixed]))

    def pair(self, rng: random.Random, test: bool) -> tuple[str, str]:
        """Two names in random order, whose pair is held out (`test`) or not."""
        while True:
            first, second = rng.sample(self.names, 2)
            if held_out(first, second, self.seed) == test:
                return first, second

    def ioi_prompt(self, rng: random.Random, test: bool = False) -> Prompt:
        """An indirect-object prompt: names in the order ABB or BAB, equally often."""
        first, second = self.pair(rng, test)
        subject, other = (first, second) if rng.random() < 0.5 else (second, first)
        return Prompt(self._ioi_words(rng, first, second, subject), answer=other, wrong=subject)

    def sentence(self, rng: random.Random, test: bool = False) -> list[str]:
        """One training text of any of the three kinds."""
        kind = rng.random()
        if kind < 0.72:
            return self._ioi_sentence(rng, test)
        if kind < 0.9:
            return self._years_sentence(rng)
        return self._plain(rng, test) + self._plain(rng, test)

    def _ioi_sentence(self, rng: random.Random, test: bool) -> list[str]:
        if rng.random() >= THIRD_PERSON:
            prompt = self.ioi_prompt(rng, test)
            return [*prompt.words, prompt.answer, "."]
        first, second = self.pair(rng, test)
        third = rng.choice([name for name in self.names if name not in (first, second)])
        return [*self._ioi_words(rng, first, second, third), rng.choice((first, second)), "."]

    def _ioi_words(self, rng: random.Random, first: str, second: str, subject: str) -> tuple[str, ...]:
        place, thing = rng.choice(self.ioi["places"]), rng.choice(self.ioi["objects"])
        text = rng.choice(self.ioi["templates"])
        return tuple(split(text.format(A=first, B=second, S=subject, PLACE=place, OBJECT=thing)))

    def years_prompt(self, rng: random.Random) -> tuple[list[str], int]:
        """A years prompt up to the last century, and the two digits of its first year."""
        century, noun = str(rng.choice(self.years["centuries"])), rng.choice(self.years["nouns"])
        start = rng.randint(1, 98)
        text = rng.choice(self.years["templates"])
        words = split(text.format(NOUN=noun, START=f"{century} {start:02d}", CENTURY=century))
        return words, start

    def _years_sentence(self, rng: random.Random) -> list[str]:
        words, start = self.years_prompt(rng)
        return [*words, f"{rng.randint(start + 1, 99):02d}", "."]

    def _plain(self, rng: random.Random, test: bool) -> list[str]:
        first, second = self.pair(rng, test)
        words = {
            "PLACE": rng.choice(self.ioi["places"]),
            "OBJECT": rng.choice(self.ioi["objects"]),
            "NOUN": rng.choice(self.years["nouns"]),
            "CENTURY": rng.choice(self.years["centuries"]),
            "YEAR": f"{rng.randint(1, 99):02d}",
        }
        return split(rng.choice(PLAIN).format(A=first, B=second, **words))


def _task_words(name: str) -> dict[str, Any]:
    return json.loads((data_dir() / "tasks" / f"{name}.json").read_text(encoding="utf-8"))
