"""What every behaviour of the world gives: training documents, and pairs of prompts with known answers.

A document is a string; a word that follows from what stands before it is marked with `^` and counts more in
training. A pair is a clean and a corrupt prompt of equal length whose answers are exchanged. What is held
out is decided by a hash of what is asked, so that it needs no list and is the same everywhere. `Cast` has the
people, places and things that the behaviours share.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

from interp.tasks import wordlists

HELD_OUT_ONE_IN = 8
MARK = "^"
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")  # the first tokens of every vocabulary


@dataclass(frozen=True)
class Pair:
    """Two prompts that differ in what decides the answer, and the words that answer each."""

    clean: str
    corrupt: str
    answer: tuple[str, ...]
    wrong: tuple[str, ...]
    cluster: str


@runtime_checkable
class Behaviour(Protocol):
    """One thing that the world's texts do."""

    name: str
    description: str

    def document(self, rng: random.Random) -> str:
        """A training text that asks nothing held out."""
        ...

    def pair(self, rng: random.Random, test: bool) -> Pair:
        """A pair that asks only what is held out (`test`) or only what is not."""
        ...


@cache
def held_out(key: str, one_in: int = HELD_OUT_ONE_IN) -> bool:
    """Whether what the key names is kept out of training."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % one_in == 0


def split(text: str) -> list[str]:
    """Words and punctuation marks, as the tokenizer splits them; marks of documents are dropped."""
    return re.findall(r"\w+|[^\w\s^]+", text)


def split_marked(text: str) -> tuple[list[str], list[bool]]:
    """Words of a document, and which of them are marked."""
    words = re.findall(r"\^?(?:\w+|[^\w\s^]+)", text)
    return [word.lstrip(MARK) for word in words], [word.startswith(MARK) for word in words]


def strings(content: Any) -> Iterator[str]:
    """Every string in the lists and fields of a task file, but for its explanations."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            if key not in ("about", "slots"):
                yield from strings(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings(value)


def fixed_words(content: Any) -> list[str]:
    """Every word in a task file outside the slots of its templates, in order."""
    return [word for text in strings(content) for word in split(re.sub(r"\{\w+\}", " ", text))]


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
